"""Attention scores in parts, behind figures 5 and 6."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from crossproof.evaluation import (
    Array,
    Statistic,
    Sums,
    attention_views,
    head_example,
    head_sums,
)
from crossproof.training.config import RunConfig
from paper.fidelity import RECIPE
from paper.figure import Heat, Panel
from paper.lab import Lab

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


def variants(lab: Lab) -> dict[str, RunConfig]:
    """Without a penalty, and the recipe."""
    return {"λ = 0": lab.config(), "recipe": lab.config(**RECIPE)}


def texts(lab: Lab) -> Int[Tensor, "S T"]:
    """Beginnings of the held-out sequences."""
    return lab.text("held_out")[:, :TOKENS]


def chosen_head(lab: Lab) -> tuple[int, int]:
    """Block and head whose scores differ most among keys: a fact of the model and the text."""
    crosscoder = lab.crosscoders(variants(lab))["λ = 0"][0]
    views = attention_views(lab.model, crosscoder)
    sums = head_sums(lab.model, crosscoder, views, texts(lab))
    size = sums["total"].sum(0) / sums["pairs"].sum(0)
    place, head = divmod(int(size.argmax()), size.shape[1])
    return list(views)[place], head


def examples(lab: Lab, block: int, head: int) -> dict[str, Any]:
    """The head on the beginning of the first held-out sequence, by variant, first seed."""
    found = {}
    for name, crosscoders in lab.crosscoders(variants(lab)).items():
        views = attention_views(lab.model, crosscoders[0])
        tokens = texts(lab)[0, :SHOWN_TOKENS]
        example = head_example(lab.model, crosscoders[0], views, tokens, block, head)
        found[name] = asdict(example)
    return found


def by_block(part: str) -> Statistic:
    """Root mean square of a part over (query, key) pairs and heads, a block a column."""

    def statistic(sums: Sums) -> Array:
        squares: Array = np.sqrt(sums[part].mean(2) / sums["pairs"][..., 0])
        return squares

    return statistic


def sums_of(lab: Lab) -> dict[str, list[Sums]]:
    """Per-sequence sums of squares of every variant and seed."""
    found: dict[str, list[Sums]] = {}
    for name, crosscoders in lab.crosscoders(variants(lab)).items():
        found[name] = []
        for crosscoder in crosscoders:
            views = attention_views(lab.model, crosscoder)
            found[name].append(head_sums(lab.model, crosscoder, views, texts(lab)))
        lab.settings.say(f"attention scores of {name}: {len(crosscoders)} seeds")
    return found


def pattern_panels(example: Mapping[str, Any]) -> list[Panel]:
    """A panel a part; keys that a query does not see are blank."""
    queries = [f"{at} {text.strip()}" for at, text in enumerate(example["tokens"])]
    keys = [str(at) for at in range(len(queries))]
    panels = []
    for part, label in LABELS.items():
        values = example["parts"][part]
        shown = [[float("nan") if v is None else v for v in row] for row in values]
        panels.append(Panel(label, "key", "query", heat=Heat(queries, keys, shown, diverging=True)))
    return panels


def pair_panel(name: str, example: Mapping[str, Any]) -> Panel:
    """What each pair of latents adds to the score between the example's query and key."""
    rows, columns = (
        [str(latent) for latent in example[f"{side}_latents"]] for side in ("query", "key")
    )
    heat = Heat(rows, columns, example["pairs"], diverging=True)
    return Panel(name, "key latent", "query latent", heat=heat)


def place(example: Mapping[str, Any]) -> str:
    """Query and key in words."""
    query, key = (example["tokens"][example[side]].strip() or "↵" for side in ("query", "key"))
    return f"“{query}” (position {example['query']}) to “{key}” (position {example['key']})"
