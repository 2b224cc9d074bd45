"""Is a penalty gamed? What it does to reconstruction, decoder, sparsity, and to all latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from paper.drawing.charts import Chart, Panel, Series
from paper.drawing.words import number, shown, size, table
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings
from paper.measuring.sweep import NONE, StrengthSweep, lines

TITLE = "Anti-gaming: where the penalties' gains come from"
KEEP, EVERY = "phi/keep-largest/exact_mid", "phi/none/exact_mid"
AUTHORS = {"authors, λ = 0": (0.736, 0.290), "authors, λ = 1000": (0.378, 0.352)}
"""Φ(all) and Φ(keep-largest) stored with the paper's code: block 1 of another model, one run."""


def compute(settings: FigureSettings) -> dict[str, Any]:
    """FVU and decoder norms at the MLPs' inputs, L0, dead latents; Φ(keep) against Φ(all)."""
    experiment = Experiment.open(settings)
    sweep = StrengthSweep(experiment)
    points, norms = sweep.points(), sweep.decoder_norms()
    for point, (members, name) in zip(points, zip(norms.values(), norms, strict=True), strict=True):
        point["name"] = name
        point["decoder_norms"] = members
        point["decoder_norm_mlp_in"] = float(
            np.mean([members[place] for place in experiment.mlp_in])
        )
    names = list(experiment.model.hookpoints().names)
    return {
        "setup": experiment.setup(),
        "hookpoints": names,
        "mlp_in": [names[place] for place in experiment.mlp_in],
        "authors": {name: list(both) for name, both in AUTHORS.items()},
        "points": points,
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """The checks against strength, and Φ of one latent against Φ of all."""
    return {"main": _checks(numbers["points"]), "plane": _plane(numbers["points"])}


def words(numbers: Mapping[str, Any]) -> str:
    """A table of every check at every point, and how many points pass them."""
    rows = []
    for point in numbers["points"]:
        figures = point["figures"]
        by_block = figures["fvu_mlp_in"].get("parts", [figures["fvu_mlp_in"]["mean"]])
        rows.append(
            [
                point["name"],
                shown(figures["fvu_mlp_in"]),
                " ".join(number(part, 2) for part in by_block),
                number(point["decoder_norm_mlp_in"], 2),
                number(figures["l0"]["mean"], 1),
                f"{point['dead']:.1%}",
                shown(figures[KEEP], 2),
                shown(figures[EVERY], 2),
            ]
        )
    head = ["objective, strength", "FVU mlp_in", "by block", "decoder norm mlp_in", "L0", "dead"]
    head += ["Φ keep-largest", "Φ all"]
    return "\n\n".join(
        [
            size(numbers["setup"]),
            finding(numbers["points"]),
            "Decoder norm: a latent's length at the MLPs' inputs over its length at all "
            "hookpoints, each in units of the activations there, mean over firings. A penalty "
            "that shrinks the decoder where it is measured lowers it and raises FVU there.",
            table(head, rows),
        ]
    )


def finding(points: Sequence[Mapping[str, Any]]) -> str:
    """Which points keep more with one latent without losing all latents or the reconstruction."""
    base = next(point for point in points if point["family"] == NONE)
    gains, clean = [], []
    for point in points:
        if point is base or point["figures"][KEEP]["ci"][0] <= base["figures"][KEEP]["ci"][1]:
            continue
        gains.append(point)
        whole = point["figures"][EVERY]["mean"] > base["figures"][EVERY]["mean"] - 0.05
        if whole and _ratio(point, base, "fvu_mlp_in") < 1.25:
            clean.append(point["name"])
    listed = "; ".join(clean) if clean else "none"
    return (
        f"Of {len(points) - 1} penalised variants, {len(gains)} keep more with one latent than no "
        f"penalty (intervals apart). Of these, {len(clean)} do so with Φ of all latents lower by "
        f"less than .05 and FVU at the MLPs' inputs higher by less than a quarter: {listed}."
    )


def _ratio(point: Mapping[str, Any], base: Mapping[str, Any], figure: str) -> float:
    return float(point["figures"][figure]["mean"] / base["figures"][figure]["mean"])


def _checks(points: Sequence[Mapping[str, Any]]) -> Chart:
    panels = [
        Panel("FVU at the MLPs' inputs", "strength", "", lines(points, "fvu_mlp_in"), x_log=True),
        Panel(
            "decoder norm at the MLPs' inputs, relative",
            "strength",
            "",
            _plain(points, "decoder_norm_mlp_in"),
            x_log=True,
        ),
        Panel("L0", "strength", "", lines(points, "l0"), x_log=True),
        Panel("dead latents", "strength", "", _plain(points, "dead"), x_log=True),
    ]
    return Chart("What a gamed penalty would show", panels)


def _plain(points: Sequence[Mapping[str, Any]], key: str) -> list[Series]:
    """A number without interval against strength."""
    series = []
    for family in dict.fromkeys(point["family"] for point in points):
        members = [point for point in points if point["family"] == family]
        values = [point[key] for point in members]
        if members[0]["strength"] is None:
            series.append(Series(family, [], values, kind="level"))
        else:
            series.append(Series(family, [point["strength"] for point in members], values))
    return series


def _plane(points: Sequence[Mapping[str, Any]]) -> Chart:
    """Φ(keep) against Φ(all), every run; the authors' two points beside them."""
    series = []
    for family in dict.fromkeys(point["family"] for point in points):
        members = [point for point in points if point["family"] == family]
        x, y = ([point["figures"][name] for point in members] for name in (EVERY, KEEP))
        series.append(
            Series(
                family,
                [entry["mean"] for entry in x],
                [entry["mean"] for entry in y],
                [entry["ci"][0] for entry in y],
                [entry["ci"][1] for entry in y],
                x_low=[entry["ci"][0] for entry in x],
                x_high=[entry["ci"][1] for entry in x],
                labels=[point["name"] for point in members],
            )
        )
    for name, (every, keep) in AUTHORS.items():
        series.append(Series(name, [every], [keep], kind="points", labels=[name]))
    panel = Panel(
        "Upper right is good; on the diagonal one latent is as good as all",
        "Φ all latents",
        "Φ keep-largest",
        series,
        x_range=(0, 1),
        y_range=(0, 1),
        diagonal=True,
    )
    return Chart("One latent kept against all kept", [panel], columns=1, panel_height=5)
