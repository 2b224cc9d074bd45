"""Figure 1: what each objective buys and costs, over decades of its strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paper.drawing.charts import Chart, Panel
from paper.drawing.words import change, shown, size, table
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings
from paper.measuring.sweep import NONE, StrengthSweep, lines

TITLE = "Figure 1: the trade-off over strengths, for every objective"
KEEP, EVERY = "phi/keep-largest/exact_mid", "phi/none/exact_mid"
AXES = {
    "dominant_share": "dominant share",
    "interaction": "I (mean over tokens and blocks)",
    "fvu": "FVU",
    "ce_recovered": "CE recovered",
    KEEP: "Φ keep-largest",
    EVERY: "Φ all latents",
}


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Dominant share, I, FVU, CE recovered and Φ against the strength of every objective."""
    experiment = Experiment.open(settings)
    points = StrengthSweep(experiment).points()
    return {"setup": experiment.setup(), "points": points}


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """A panel a figure, against strength."""
    points = numbers["points"]
    panels = [
        Panel(
            axis,
            "strength",
            "",
            lines(points, figure),
            x_log=True,
            y_log=figure == "interaction",
            y_range=None if figure == "interaction" else (-0.02, 1.02),
        )
        for figure, axis in AXES.items()
    ]
    return {"main": Chart("What each objective buys and costs (held-out text)", panels)}


def words(numbers: Mapping[str, Any]) -> str:
    """The table of all points, the best of each family, and what they cost."""
    points = numbers["points"]
    rows = []
    for point in points:
        f = point["figures"]
        strength = "" if point["strength"] is None else f"{point['strength']:g}"
        cells = [shown(f[name], 2 if name == "interaction" else 3) for name in (KEEP, EVERY)]
        cells += [shown(f[name]) for name in ("fvu", "ce_recovered", "dominant_share")]
        cells += [shown(f[name]) for name in ("interaction", "additive_interaction")]
        rows.append([point["family"], strength, *cells])
    head = ["objective", "strength", "Φ keep-largest", "Φ all", "FVU", "CE recovered"]
    head += ["dominant share", "I", "J"]
    return "\n\n".join([size(numbers["setup"]), finding(points), table(head, rows)])


def finding(points: list[dict[str, Any]]) -> str:
    """Each family at its best Φ keep-largest: what it keeps, and what all latents keep then."""
    base = next(point for point in points if point["family"] == NONE)
    lines_ = [
        f"Without penalty one latent keeps {_phi(base, KEEP)}, all keep {_phi(base, EVERY)}, and "
        f"I is {base['figures']['interaction']['mean']:,.0f}. Each objective at the strength where "
        f"one latent keeps most (read off these held-out points to describe the curves; nothing "
        f"was chosen by them):",
        "",
    ]
    for family in dict.fromkeys(p["family"] for p in points if p["family"] != NONE):
        best = max(
            (p for p in points if p["family"] == family), key=lambda p: p["figures"][KEEP]["mean"]
        )
        interactions = best["figures"]["interaction"]["mean"]
        ratio = interactions / base["figures"]["interaction"]["mean"] - 1
        lines_.append(
            f"* {family}, strength {best['strength']:g}: {_phi(best, KEEP)}, all "
            f"{_phi(best, EVERY)}, FVU {change(best['fvu_ratio']['mean'] - 1)}, I {change(ratio)}"
        )
    return "\n".join(lines_)


def _phi(point: dict[str, Any], figure: str) -> str:
    return shown(point["figures"][figure], 2)
