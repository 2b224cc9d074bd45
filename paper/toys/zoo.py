"""Small language models of several families and sizes, for figures 8 and 9.

They are small because they are trained where the figures are made: on one CPU core, in minutes,
on the figures' own text. Optimiser and schedule are the bundled model's. Checkpoints are never
part of the package: they lie in the cache, as folders that `load_model` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from crossproof.activations import read_sequences
from crossproof.files import read_json, write_json
from crossproof.lm import LanguageModel, quiet
from models.pretraining import (
    check_lean_logits,
    held_out_loss,
    next_token_loss,
    optimisers,
    schedule,
    shuffled,
    update,
)
from paper.measuring.cache import ResultCache, digest

Architecture = Literal["gpt_neo", "gpt_neox", "llama"]
FAMILIES: tuple[Architecture, ...] = ("gpt_neo", "gpt_neox", "llama")
TRAINING = "training.json"
"""What a model's folder says of its training."""
HELD_OUT = 64
"""Sequences, the last of the held-out split, that a model's loss is measured on."""


@dataclass(frozen=True)
class SmallModelConfig:
    """A model and its training."""

    family: Architecture
    """gpt_neo: learned positions, GELU; gpt_neox: rotary positions, GELU, attention and MLP in
    parallel (as in Pythia); llama: rotary positions, RMS norms, gated MLPs (SwiGLU)."""
    d_model: int
    blocks: int
    heads: int = 4
    steps: int = 400
    batch: int = 16
    """Sequences a step."""
    context: int = 256
    seed: int = 0
    muon_lr: float = 0.02
    """Of the blocks' matrices."""
    adam_lr: float = 3e-3
    """Of embeddings, biases and norms."""

    @property
    def name(self) -> str:
        """A short label."""
        return f"{self.family} {self.d_model}x{self.blocks}"

    def architecture(self, like: LanguageModel) -> PreTrainedConfig:
        """The Hugging Face configuration, with the vocabulary of another model.

        A gated MLP has as many parameters as a plain one; embeddings are tied.
        """
        common: dict[str, Any] = {
            "vocab_size": like.vocab_size,
            "hidden_size": self.d_model,
            "max_position_embeddings": self.context,
            "bos_token_id": None,
            "eos_token_id": sorted(like.special_ids),
            "tie_word_embeddings": True,
        }
        if self.family == "gpt_neo":
            return GPTNeoConfig(
                **common,
                num_layers=self.blocks,
                attention_types=[[["global"], self.blocks]],
                num_heads=self.heads,
                intermediate_size=4 * self.d_model,
                activation_function="gelu_new",
                resid_dropout=0.0,
                embed_dropout=0.0,
                attention_dropout=0.0,
            )
        common |= {"num_hidden_layers": self.blocks, "num_attention_heads": self.heads}
        if self.family == "gpt_neox":
            return GPTNeoXConfig(**common, intermediate_size=4 * self.d_model)
        return LlamaConfig(**common, intermediate_size=8 * self.d_model // 3)


def train(
    recipe: SmallModelConfig,
    like: LanguageModel,
    rows: Int[Tensor, "S T"],
    say: Callable[[str], None] = lambda _: None,
) -> PreTrainedModel:
    """Trains the recipe's model on rows of `like`'s tokens, shuffled anew every epoch.

    The same recipe, rows and number of threads give the same weights. `say` gets progress lines.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(recipe.architecture(like))
    if isinstance(model, GPTNeoForCausalLM):
        check_lean_logits(model, rows[:2])
    opts = optimisers(model, recipe.muon_lr, recipe.adam_lr)
    batches = shuffled(rows, recipe.batch, recipe.seed)
    for step, batch in zip(range(recipe.steps), batches, strict=False):
        loss = next_token_loss(model, batch)
        update(model, opts, loss, schedule(step, recipe.steps))
        if (step + 1) % 100 == 0:
            say(f"{recipe.name}: step {step + 1} of {recipe.steps}, loss {loss.item():.3f}")
    model.eval()
    return model


def save(
    folder: Path,
    recipe: SmallModelConfig,
    like: LanguageModel,
    splits: dict[str, Int[Tensor, "S T"]],
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Trains the recipe's model on the split `train` into a folder that `load_model` reads.

    The tokenizer is that of `like`, whose tokens the splits hold. training.json says how the model
    was trained and its loss on the split `held_out`, in nats per token.
    """
    model = train(recipe, like, splits["train"], say)
    facts = {
        "recipe": asdict(recipe),
        "tokens": recipe.steps * recipe.batch * splits["train"].shape[1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_loss": held_out_loss(model, splits["held_out"]),
        "held_out_sequences": len(splits["held_out"]),
    }
    with quiet():
        model.save_pretrained(folder)
        if like.tokenizer is not None:
            like.tokenizer.save_pretrained(folder)
    write_json(folder / TRAINING, facts)


def folder(
    recipe: SmallModelConfig,
    like: LanguageModel,
    text: str,
    cache: ResultCache,
    say: Callable[[str], None],
) -> Path:
    """The folder of the recipe's model on a text, trained unless the cache has it."""
    context = min(recipe.context, like.context)
    splits = {
        "train": read_sequences(text, like, context, "train"),
        "held_out": read_sequences(text, like, context, "held_out")[-HELD_OUT:],
    }
    made_from = {
        "recipe": asdict(recipe),
        "vocabulary": like.vocab_size,
        "special": sorted(like.special_ids),
        **{name: digest(rows.numpy().tobytes()) for name, rows in splits.items()},
    }
    write = partial(save, recipe=recipe, like=like, splits=splits, say=say)
    return cache.get("language-model", made_from, write)


def loss(model: LanguageModel, text: str) -> float:
    """The held-out loss of any model, on the sequences that the zoo's are measured on."""
    rows = read_sequences(text, model, model.context, "held_out")[-HELD_OUT:]
    return float(torch.cat([model.token_losses(part) for part in rows.split(8)]).mean())


def training(folder: Path) -> dict[str, Any]:
    """What `save` wrote of a model's training."""
    return read_json(folder / TRAINING)
