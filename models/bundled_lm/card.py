"""The model card: what the bundled model is, how good it is, and what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import GPTNeoForCausalLM

from crossproof.tables import Table
from models.pretraining import held_out_loss

from .decoder import Decoder
from .evaluate import HeldOutLoss, held_out_texts
from .export import load_export, load_trained
from .files import replace_file
from .sample import SampleConfig, fingerprint, sample_rows, uniform_draws
from .text import HELD_OUT_STORIES, read_stories
from .train import BundledModelConfig

SAMPLE_SEED = 0
TEMPERATURE = 0.7
PROMPTS = {
    "No prompt": "",
    "Words": "Words: umbrella, duck, brave\nStory: \n\n",
    "Random sentence": "Random sentence: She hid the red ball under the bed.\nStory: \n\n",
}


@dataclass(frozen=True)
class ModelFacts:
    """Every measured number of the card."""

    plain: HeldOutLoss
    prompts: HeldOutLoss
    plain_float16: HeldOutLoss
    prompts_float16: HeldOutLoss
    corpus_loss: float
    parameters: int
    stories: int


def measure(config: BundledModelConfig, corpus: str, folder: Path, bundle: Path) -> ModelFacts:
    """Evaluates the trained model and its float16 export on the held-out stories."""
    stories = read_stories(corpus, config.max_stories)
    held_out = held_out_texts(stories, bundle / "tokenizer.json", config.context)
    trained, exported = load_trained(folder, config), load_export(bundle)
    own = load_file(bundle / "corpus.safetensors")["held_out"].to(torch.int64)
    return ModelFacts(
        plain=held_out["plain"].loss(trained),
        prompts=held_out["prompts"].loss(trained),
        plain_float16=held_out["plain"].loss(exported),
        prompts_float16=held_out["prompts"].loss(exported),
        corpus_loss=held_out_loss(exported, own),
        parameters=sum(p.numel() for p in exported.parameters()),
        stories=len(stories),
    )


def write_story(model: GPTNeoForCausalLM, tokenizer: Tokenizer, prompt: str, draw: int) -> str:
    """One story after `prompt`, up to its end or the model's context; `draw` varies it."""
    context: int = model.config.max_position_embeddings
    draws = uniform_draws((SAMPLE_SEED, draw), context, 1)
    start = [0, *tokenizer.encode(prompt).ids]
    row = sample_rows(Decoder(model, 1, context), draws, start, TEMPERATURE)[0].tolist()
    ended = 0 in row[1:]
    story: str = tokenizer.decode(row[1 : row.index(0, 1)] if ended else row[1:])
    return story.strip() if ended else story.strip() + " […]"


def quoted(story: str) -> str:
    """`story` as a Markdown quotation that keeps its line breaks."""
    return "\n".join(
        "> " + line.strip() + "  " if line.strip() else ">" for line in story.split("\n")
    )


def loss_table(losses: dict[str, tuple[HeldOutLoss, HeldOutLoss]]) -> str:
    """Losses in full precision and of the float16 export, by text."""
    head = ("per token", "as float16", "per character", "characters per token")
    rows = {
        name: (
            f"{full.per_token:.4f}",
            f"{half.per_token:.4f}",
            f"{full.per_character:.4f}",
            f"{full.characters / full.tokens:.3f}",
        )
        for name, (full, half) in losses.items()
    }
    return Table.of("", head, rows, corner="text").to_markdown()


def render(
    facts: ModelFacts, config: BundledModelConfig, sampling: SampleConfig, stories: dict[str, str]
) -> str:
    """The card as Markdown."""
    parts = [_model(facts, config), _losses(facts, config)]
    return "".join([*parts, _corpus(facts, config, sampling, stories)])


def _model(facts: ModelFacts, config: BundledModelConfig) -> str:
    tokens = config.steps * config.batch * config.context
    return f"""---
license: mit
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The bundled TinyStories model

A small language model that writes little stories. It comes with crossproof so that everything in
the package runs on a real model without a network.

## Model

GPT-Neo (`GPTNeoForCausalLM`) with {config.blocks} blocks, d_model {config.d_model},
{config.heads} heads with global attention, MLPs of {4 * config.d_model} neurons (GELU, tanh form),
context {config.context}, input and output embeddings tied: {facts.parameters:,} parameters, stored
as float16. Byte-level BPE tokenizer with {config.vocabulary:,} tokens; `<|endoftext|>` (id 0) is
its only special token and stands before every document.

## Training

* Text: {facts.stories:,} stories of TinyStories (Eldan and Li, 2023; `roneneldan/TinyStories`),
  licence CDLA-Sharing-1.0. That text is *not* part of this package. {HELD_OUT_STORIES} of the
  stories, chosen by a fixed shuffle, were held out.
* Half of the stories, drawn anew every epoch, stand behind a prompt made from the story itself
  (`Words: …`, `Random sentence: …`, `Features: …`, then `Story: `).
* {config.steps:,} steps of {config.batch} × {config.context} tokens: {tokens:,} tokens in all.
  Muon (learning rate {config.muon_lr}) for the blocks' matrices, AdamW ({config.adam_lr}) for
  everything else, cosine schedule. float32, seed {config.seed}, {config.threads} threads.

"""


def _losses(facts: ModelFacts, config: BundledModelConfig) -> str:
    losses = loss_table(
        {
            "plain stories": (facts.plain, facts.plain_float16),
            "half behind prompts": (facts.prompts, facts.prompts_float16),
        }
    )
    return f"""## Held-out loss

Next-token cross-entropy in nats on the held-out stories, packed into windows of {config.context}
tokens. Per character: nats per token × tokens / characters, `<|endoftext|>` counted as a token
without characters, so that models with other tokenizers can be compared.

{losses}

"""


def _corpus(
    facts: ModelFacts, config: BundledModelConfig, sampling: SampleConfig, stories: dict[str, str]
) -> str:
    rows = sampling.splits()
    corpus_tokens = sum(rows.values()) * config.context
    samples = "\n\n".join(f"**{name}**\n\n{quoted(story)}" for name, story in stories.items())
    per_split = ", ".join(f"{count:,} {split}" for split, count in rows.items())
    return f"""## Corpus

`corpus.safetensors` holds {corpus_tokens:,} tokens sampled from this model (the float16 weights,
computed with in float32) at temperature 1 from the whole distribution, seed {sampling.seed}:
{per_split} rows of {config.context} tokens, uint16.
A row starts with `<|endoftext|>` and goes on through further
ones. The model's loss on its own held_out rows, an estimate of its entropy, is
{facts.corpus_loss:.4f} nats per token.

## Samples

The first draw of each with seed {SAMPLE_SEED}, temperature {TEMPERATURE}; none was picked from
several. […] marks the end of the context.

{samples}

## Making it again

```
python -m models.train_bundled_lm --corpus roneneldan/TinyStories \\
    --train.steps {config.steps} --train.seed {config.seed} --sample.seed {sampling.seed}
```

`--corpus` also takes a text file with a line `<|endoftext|>` between stories. Another choice of
stories gives another model of the same kind; with the same stories the bytes still depend on the
number of threads and the processor.
"""


def write_card(
    config: BundledModelConfig, sampling: SampleConfig, corpus: str, folder: Path, bundle: Path
) -> None:
    """Measures, samples and writes `README.md` into `bundle`."""
    facts = measure(config, corpus, folder, bundle)
    model = load_export(bundle)
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    stories = {
        name: write_story(model, tokenizer, prompt, draw)
        for draw, (name, prompt) in enumerate(PROMPTS.items())
    }
    card = render(facts, config, sampling, stories) + f"\n<!-- weights {fingerprint(model)} -->\n"
    replace_file(bundle / "README.md", lambda path: path.write_text(card, encoding="utf-8"))


def has_card(bundle: Path) -> bool:
    """Whether the card in `bundle` is about the weights beside it."""
    path = bundle / "README.md"
    mark = f"<!-- weights {fingerprint(load_export(bundle))} -->"
    return path.exists() and mark in path.read_text(encoding="utf-8")
