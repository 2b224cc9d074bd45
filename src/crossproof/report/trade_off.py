"""Φ with one latent kept against Φ with all of them, before a published sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from crossproof.report.figures import LOWEST_PHI, told
from crossproof.report.plots import Panel, error_bar, plain_figure
from crossproof.report.runs import ShownRun
from crossproof.tables import Estimate

MARKS = {
    "circle": "●",
    "diamond": "◆",
    "square": "■",
    "triangle-up": "▲",
    "cross": "✚",
    "x": "✖",
    "star": "★",
    "pentagon": "⬟",
    "hexagon": "⬢",
}
"""Symbols of published objectives, and the characters for them in the legend."""
COLOURS = 4
"""--published-1 to --published-4 of the style sheet."""
PHI_HOVER = "all latents Φ %{x:.3f}<br>only the largest Φ %{y:.3f}"
Points = Sequence[Mapping[str, Any]]


def published_legend(points: Points) -> list[tuple[str, str, str]]:
    """Objective, symbol and colour, in the order of the objectives' first points."""
    names = dict.fromkeys(str(point["objective"]) for point in points)
    symbols = list(MARKS)
    return [
        (name, symbols[at % len(symbols)], f"var(--published-{at % COLOURS + 1})")
        for at, name in enumerate(names)
    ]


def trade_off_panels(runs: Sequence[ShownRun], points: Points) -> list[Panel]:
    """A point a run; none if there is nothing to compare a single run with.

    Left out are dictionaries upstream of their MLPs, whose Φ of all latents is 1 by construction.
    """
    shown = [run for run in runs if run.figures.fidelity("none") is not None]
    shown = [run for run in shown if run.figures.whole_mid == "exact_mid"]
    if not shown or len(shown) + len(points) < 2:
        return []
    figure = plain_figure(440, hovermode="closest")
    for name, symbol, colour in published_legend(points):
        _sweep(figure, [p for p in points if p["objective"] == name], name, symbol, colour)
    x_range, y_range = (
        _span([float(p[key]) for p in points], [run.figures.fidelity(scheme) for run in shown])
        for key, scheme in (("phi_none", "none"), ("phi_keep", "keep-largest"))
    )
    for run in shown:
        _add_run(figure, run, sum(x_range) / 2)
    line = {"color": "var(--axis)", "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=-9, y0=-9, x1=9, y1=9, line=line, layer="below")
    figure.update_xaxes(title_text="Φ, all latents", range=x_range, automargin=True)
    figure.update_yaxes(range=y_range, automargin=True)
    figure.update_yaxes(title={"text": "Φ, only the largest latent", "standoff": 14})
    return [Panel("", told(shown), figure)]


def _add_run(figure: go.Figure, run: ShownRun, middle: float) -> None:
    keep, every = run.figures.fidelity("keep-largest"), run.figures.fidelity("none")
    if keep is None or every is None:
        return
    figure.add_scatter(
        x=[every.value],
        y=[keep.value],
        error_x=error_bar([every], run.colour),
        error_y=error_bar([keep], run.colour),
        mode="markers+text",
        text=[run.name],
        textposition="bottom left" if every.value > middle else "bottom right",
        textfont={"color": run.colour},
        marker={"size": 15, "color": run.colour, "line": {"width": 2, "color": "var(--page)"}},
        name=run.name,
        hovertemplate=f"<b>%{{fullData.name}}</b><br>{PHI_HOVER}<extra></extra>",
    )


def _sweep(figure: go.Figure, points: Points, name: str, symbol: str, colour: str) -> None:
    """One published objective: a mark a training, a line through the means over seeds."""
    strengths = sorted({float(point["strength"]) for point in points})
    at = [[p for p in points if float(p["strength"]) == strength] for strength in strengths]
    means = [
        [sum(float(p[key]) for p in group) / len(group) for group in at]
        for key in ("phi_none", "phi_keep")
    ]
    line = {"color": colour, "width": 1.2}
    figure.add_scatter(x=means[0], y=means[1], mode="lines", line=line, hoverinfo="skip")
    details = [f"{name} {p['strength']:g}, seed {p['seed']}" for p in points]
    figure.add_scatter(
        x=[float(p["phi_none"]) for p in points],
        y=[float(p["phi_keep"]) for p in points],
        customdata=[[text, float(p["fvu"])] for text, p in zip(details, points, strict=True)],
        mode="markers",
        marker={"size": 6, "symbol": symbol, "color": colour},
        name=name,
        hovertemplate=f"%{{customdata[0]}}<br>{PHI_HOVER}<br>FVU %{{customdata[1]:.3f}}"
        "<extra>published</extra>",
    )


def _span(points: Sequence[float], values: Sequence[Estimate | None]) -> list[float]:
    """From a little below the lowest to 1, or to a little above the highest."""
    ends = [end for value in values if value is not None for end in value.ends]
    shown = [max(end, LOWEST_PHI) for end in (*points, *ends)]
    margin = 0.06 * max(1 - min(shown), 0.2)
    return [min(shown) - margin, max(1.0, max(shown) + margin)]
