"""What `crossproof measure` says of the page's crosscoders: tables and the texts of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossproof.evaluation.measurement import PairFigures, RunMeasurement, pairs_table, totals_table
from crossproof.report.passages import Piece, pieces
from crossproof.report.runs import ShownRun
from crossproof.tables import Table

SHOWN = 6
"""Pairs whose texts are shown."""


@dataclass(frozen=True)
class PairPassage:
    """A pair of latents and its strongest contexts."""

    latents: tuple[int, int]
    contexts: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class MeasuredRuns:
    """The section's tables and passages; runs are those of the page that were measured."""

    tokens: str
    totals: Table
    pairs: dict[str, Table]
    passages: dict[str, list[PairPassage]]


def measured_runs(measured: RunMeasurement | None, runs: Sequence[ShownRun]) -> MeasuredRuns | None:
    """The section's content, or None where nothing was measured."""
    every = {} if measured is None else measured.runs
    results = {run.name: every[run.name] for run in runs if run.name in every}
    if measured is None or not results:
        return None
    ratios = {name: totals for name, totals in measured.ratios.items() if name in results}
    return MeasuredRuns(
        tokens=f"{next(iter(results.values())).tokens:,}",
        totals=totals_table(results, ratios),
        pairs={name: pairs_table("", result) for name, result in results.items()},
        passages={
            name: [_passage(pair) for pair in result.top_pairs[:SHOWN]]
            for name, result in results.items()
        },
    )


def _passage(pair: PairFigures) -> PairPassage:
    largest = max((a for context in pair.contexts for a in context.activations), default=0.0)
    contexts = tuple(tuple(pieces(context, largest)) for context in pair.contexts)
    return PairPassage(pair.latents, contexts)
