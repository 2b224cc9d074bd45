"""The crosscoders of a page: each one's figures, its place in the order and its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossproof.evaluation import results as evaluation
from crossproof.evaluation.results import EvaluationResult, RunEvaluation

PALETTE = 6
"""Colours of the page's style sheet, --run-1 to --run-6; further runs start again."""


@dataclass(frozen=True)
class ShownRun:
    """One crosscoder of results.json; `place` counts from 0 and decides its colour."""

    name: str
    place: int
    figures: EvaluationResult

    @property
    def objective(self) -> str:
        """What it was trained for, in words."""
        return self.figures.objective or "objective not recorded"

    @property
    def colour(self) -> str:
        """The custom property of the style sheet that holds the run's colour."""
        return f"--run-{self.place % PALETTE + 1}"


def runs_of(results: RunEvaluation) -> list[ShownRun]:
    """The crosscoders of results.json, the one trained for reconstruction only first."""
    entries = sorted(
        results.runs.items(), key=lambda entry: entry[1].objective != "reconstruction only"
    )
    return [ShownRun(name, place, figures) for place, (name, figures) in enumerate(entries)]


def mids_of(runs: Sequence[ShownRun]) -> list[str]:
    """The kinds of resid_mid for which any run has fidelities."""
    return evaluation.mids_of([run.figures for run in runs])


def short_hookpoint(name: str) -> str:
    """`blocks.3.hook_resid_pre` as `3 resid_pre`, for axes."""
    return name.removeprefix("blocks.").replace("hook_", "").replace(".", " ")
