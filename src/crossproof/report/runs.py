"""The crosscoders of a page: each one's figures, its place in the order and its colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crossproof.evaluation.results import EvaluationResult, RunEvaluation

PALETTE = 6
"""Colours of the page's style sheet, --run-1 to --run-6; further runs start again."""
T = TypeVar("T")


@dataclass(frozen=True)
class ShownRun:
    """One crosscoder of results.json; `rank` counts from 0 and decides its colour."""

    name: str
    rank: int
    figures: EvaluationResult

    @property
    def objective(self) -> str:
        """What it was trained for, in words."""
        return self.figures.objective or "objective not recorded"

    @property
    def colour(self) -> str:
        """The run's colour in the style sheet."""
        return f"var(--run-{self.rank % PALETTE + 1})"

    @property
    def soft_colour(self) -> str:
        """The same, to fill areas with."""
        return f"var(--run-{self.rank % PALETTE + 1}-soft)"


def runs_of(results: RunEvaluation) -> list[ShownRun]:
    """The crosscoders of results.json, the one trained for reconstruction only first."""
    entries = sorted(
        results.runs.items(), key=lambda entry: entry[1].objective != "reconstruction only"
    )
    return [ShownRun(name, rank, figures) for rank, (name, figures) in enumerate(entries)]


def of_page(by_name: Mapping[str, T], runs: Sequence[ShownRun]) -> list[tuple[ShownRun, T]]:
    """Of what another command says by crosscoder, that of the page's, in the page's order."""
    return [(run, by_name[run.name]) for run in runs if run.name in by_name]
