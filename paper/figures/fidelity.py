"""Fidelity Φ of the ablation schemes, behind figures 2 and 7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossproof.evaluation import MIDS, SCHEMES, EvaluationOptions
from crossproof.training import RunConfig
from paper.drawing.charts import Panel, Series
from paper.measuring.experiment import Experiment
from paper.measuring.measurements import SeedMeasurements
from paper.measuring.objectives import RECIPE

LABELS = {
    "none": "all",
    "drop-random": "drop\nrandom",
    "drop-second": "drop\nsecond",
    "drop-largest": "drop\nlargest",
    "keep-largest": "keep\nlargest",
}
MID_LABELS = {"exact_mid": "exact resid_mid", "reconstructed_mid": "reconstructed resid_mid"}
LAMBDAS = (10.0, 100.0, 1000.0)
OPTIONS = EvaluationOptions(patch_hookpoints=False)


def variants(experiment: Experiment) -> dict[str, RunConfig]:
    """No penalty, the paper's penalty at several λ, and the recipe."""
    penalised = {f"λ = {value:g}": experiment.config(interaction=value) for value in LAMBDAS}
    return {"λ = 0": experiment.config(), **penalised, "recipe": experiment.config(**RECIPE)}


def measured(experiment: Experiment) -> dict[str, Any]:
    """Φ by variant, scheme and mid, each with interval and blocks."""
    runs = experiment.measure(variants(experiment), options=OPTIONS)
    return {name: phis(own) for name, own in runs.items()}


def phis(runs: SeedMeasurements) -> dict[str, Any]:
    """Φ by scheme and mid."""
    mids = [mid for mid in MIDS if f"phi/{mid}/none" in runs.seeds[0].sums]
    return {
        scheme: {mid: runs.figure(f"phi/{scheme}/{mid}").estimate() for mid in mids}
        for scheme in SCHEMES
    }


def panel(
    by_variant: Mapping[str, Any], mid: str, block: int | None = None, title: str = ""
) -> Panel:
    """Bars of every scheme: the mean over blocks, or the block at one place."""
    series = []
    for name, by_scheme in by_variant.items():
        every = [by_scheme[scheme][mid] for scheme in SCHEMES]
        shown = every if block is None else [by_block(entry)[block] for entry in every]
        low, high = ([entry["ci"][end] for entry in shown] for end in (0, 1))
        middle = [entry["mean"] for entry in shown]
        series.append(Series(name, list(LABELS.values()), middle, low, high, kind="bars"))
    lowest = min((value for one in series for value in one.low or ()), default=0.0)
    limits = (max(-1.0, min(0.0, lowest) - 0.02), 1.02)
    return Panel(title or MID_LABELS[mid], "", "Φ", series, y_range=limits)


def mids(by_variant: Mapping[str, Any]) -> list[str]:
    """The kinds of resid_mid that were measured."""
    return list(next(iter(by_variant.values()))["none"])


def by_block(estimate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each block's own estimate."""
    if "parts" not in estimate:  # one block
        return [dict(estimate)]
    both = zip(estimate["parts"], estimate["part_cis"], strict=True)
    return [{"mean": part, "ci": ci} for part, ci in both]
