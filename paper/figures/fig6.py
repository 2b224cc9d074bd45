"""Figure 6: latents of a query against latents of a key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from crossproof.crosscoder import Crosscoder, encode_batches
from crossproof.evaluation import attention_input, attention_views
from crossproof.interactions import keep_pairs, score_parts
from paper.drawing.charts import Chart
from paper.drawing.words import shown, size, table
from paper.figures import heads
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings
from paper.measuring.statistics import Array, Statistic, Sums, over_seeds

TITLE = "Figure 6: interactions between latents of a query and of a key"
KEPT = (1, 5, 20)
"""Numbers of pairs kept at each query and key."""


def compute(settings: FigureSettings) -> dict[str, Any]:
    """The matrix between two positions, and how concentrated such matrices are."""
    experiment = Experiment.open(settings)
    block, head = heads.chosen_head(experiment)
    examples = heads.examples(experiment, block, head)
    shares = {
        name: _shares([_kept(experiment, crosscoder, block, head) for crosscoder in crosscoders])
        for name, crosscoders in experiment.crosscoders(heads.variants(experiment)).items()
    }
    return {
        "setup": experiment.setup(),
        "tokens": heads.TOKENS,
        "block": block,
        "head": head,
        "examples": examples,
        "shares": shares,
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """The matrix between two positions, a panel a crosscoder."""
    panels = [heads.pair_panel(name, found) for name, found in numbers["examples"].items()]
    head = f"Block {numbers['block']}, head {numbers['head']}"
    return {
        "main": Chart(f"{head}: what pairs of latents add to a score", panels, panel_height=3.4)
    }


def _kept(experiment: Experiment, crosscoder: Crosscoder, block: int, head: int) -> Sums:
    """Per sequence: I^QK of all pairs and of the largest at each query and key.

    Queries and keys are weighted by the attention probability.
    """
    view = attention_views(experiment.model, crosscoder)[block]
    rows: list[list[float]] = []
    texts = heads.texts(experiment)
    for batch in encode_batches(experiment.model, crosscoder, texts, 1, every_position=True):
        parts = score_parts(view, head, batch.latents, attention_input(batch, block))
        weights = view.attention.pattern(parts.total)
        found = [keep_pairs(view, head, batch.latents, largest=count) for count in KEPT]
        whole = (weights * (found[0].kept + found[0].omitted)).sum()
        kept = [(weights * pairs.kept).sum() for pairs in found]
        rows.append(torch.stack([whole, *kept]).tolist())
    columns = np.array(rows).T
    return dict(zip(("all", *map(str, KEPT)), columns, strict=True))


def _shares(seeds: list[Sums]) -> dict[str, Any]:
    return {str(count): over_seeds(seeds, _share(str(count))).estimate() for count in KEPT}


def _share(count: str) -> Statistic:
    def statistic(sums: Sums) -> Array:
        share: Array = (sums[count] / sums["all"])[:, None]
        return share

    return statistic


def words(numbers: Mapping[str, Any]) -> str:
    """Which positions, and the share of the interaction that few pairs carry."""
    rows = [
        [name, *(shown(shares[str(count)], 2) for count in KEPT)]
        for name, shares in numbers["shares"].items()
    ]
    head = ["", *(f"largest {count}" for count in KEPT)]
    places = "; ".join(f"{n}: {heads.place(e)}" for n, e in numbers["examples"].items())
    return "\n\n".join(
        [
            size(numbers["setup"]),
            f"Block {numbers['block']}, head {numbers['head']} (chosen as in figure 5), from the "
            f"query to the key whose latents add most beyond their mean over keys. {places}.",
            f"Share of the summed interaction I^QK that the largest pairs of each query and key "
            f"carry, weighted by attention, first {numbers['tokens']} tokens of each sequence:",
            table(head, rows),
        ]
    )
