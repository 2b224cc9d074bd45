"""Attention scores in parts, behind figures 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from crossproof.evaluation import (
    attention_views,
    head_example,
    head_sums,
)
from crossproof.training import RunConfig
from paper.drawing.charts import Heatmap, Panel
from paper.measuring.experiment import Experiment
from paper.measuring.objectives import RECIPE
from paper.measuring.statistics import Array, Statistic, Sums

TOKENS = 64
"""Of each held-out sequence: scores in parts are [queries, keys] for every head."""
SHOWN_TOKENS = 16
LABELS = {
    "total": "score",
    "constant": "constant",
    "query": "query latents",
    "key": "key latents",
    "query_key": "query × key latents",
    "residual": "residual",
}


def variants(experiment: Experiment) -> dict[str, RunConfig]:
    """Without a penalty, and the recipe."""
    return {"λ = 0": experiment.config(), "recipe": experiment.config(**RECIPE)}


def texts(experiment: Experiment) -> Int[Tensor, "S T"]:
    """Beginnings of the held-out sequences."""
    return experiment.text("held_out")[:, :TOKENS]


def chosen_head(experiment: Experiment) -> tuple[int, int]:
    """Block and head whose scores differ most among keys: a fact of the model and the text."""
    crosscoder = experiment.crosscoders(variants(experiment))["λ = 0"][0]
    views = attention_views(experiment.model, crosscoder)
    sums = head_sums(experiment.model, crosscoder, views, texts(experiment))
    size = sums["total"].sum(0) / sums["pairs"].sum(0)
    place, head = divmod(int(size.argmax()), size.shape[1])
    return list(views)[place], head


def examples(experiment: Experiment, block: int, head: int) -> dict[str, Any]:
    """The head on the beginning of the first held-out sequence, by variant, first seed."""
    collected = {}
    for name, crosscoders in experiment.crosscoders(variants(experiment)).items():
        views = attention_views(experiment.model, crosscoders[0])
        tokens = texts(experiment)[0, :SHOWN_TOKENS]
        example = head_example(experiment.model, crosscoders[0], views, tokens, block, head)
        collected[name] = asdict(example)
    return collected


def by_block(part: str) -> Statistic:
    """Root mean square of a part over (query, key) pairs and heads, a block a column."""

    def statistic(sums: Sums) -> Array:
        squares: Array = np.sqrt(sums[part].mean(2) / sums["pairs"][..., 0])
        return squares

    return statistic


def sums_of(experiment: Experiment) -> dict[str, list[Sums]]:
    """Per-sequence sums of squares of every variant and seed."""
    collected: dict[str, list[Sums]] = {}
    for name, crosscoders in experiment.crosscoders(variants(experiment)).items():
        collected[name] = []
        for crosscoder in crosscoders:
            views = attention_views(experiment.model, crosscoder)
            collected[name].append(
                head_sums(experiment.model, crosscoder, views, texts(experiment))
            )
        experiment.settings.say(f"attention scores of {name}: {len(crosscoders)} seeds")
    return collected


def pattern_panels(example: Mapping[str, Any]) -> list[Panel]:
    """A panel a part; keys that a query does not see are blank."""
    queries = [f"{at} {text.strip()}" for at, text in enumerate(example["tokens"])]
    keys = [str(at) for at in range(len(queries))]
    panels = []
    for part, label in LABELS.items():
        values = example["parts"][part]
        shown = [[float("nan") if v is None else v for v in row] for row in values]
        panels.append(
            Panel(label, "key", "query", heat=Heatmap(queries, keys, shown, diverging=True))
        )
    return panels


def pair_panel(name: str, example: Mapping[str, Any]) -> Panel:
    """What each pair of latents adds to the score between the example's query and key."""
    rows, columns = (
        [str(latent) for latent in example[f"{side}_latents"]] for side in ("query", "key")
    )
    heat = Heatmap(rows, columns, example["pairs"], diverging=True)
    return Panel(name, "key latent", "query latent", heat=heat)


def place(example: Mapping[str, Any]) -> str:
    """Query and key in words."""
    query, key = (example["tokens"][example[side]].strip() or "↵" for side in ("query", "key"))
    return f"“{query}” (position {example['query']}) to “{key}” (position {example['key']})"
