"""The figures, as Plotly figures whose colours are custom properties of the page's style sheet.

The page's script replaces `var(--name)` by the value of the moment, so that one figure serves
light and dark. Nothing here depends on the page's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from crossproof.evaluation.results import SCHEME_LABELS
from crossproof.report.runs import ShownRun, mids_of, short_hookpoint
from crossproof.tables import Estimate

SYMBOLS = (
    "circle",
    "diamond",
    "square",
    "triangle-up",
    "cross",
    "x",
    "star",
    "pentagon",
    "hexagon",
)
MARKS = ("●", "◆", "■", "▲", "✚", "✖", "★", "⬟", "⬢")
"""The symbols as characters, for the legend."""
LOWEST_PHI = -1.0
"""Axes of Φ stop here; a bar below it carries its number."""
Points = Sequence[Mapping[str, Any]]


def objectives_of(points: Points) -> list[str]:
    """The published objectives, in the order of their first point."""
    return list(dict.fromkeys(str(point["objective"]) for point in points))


def published_colour(place: int) -> str:
    """The custom property that holds the colour of a published objective."""
    return f"--published-{place % 4 + 1}"


def trade_off(runs: Sequence[ShownRun], points: Points) -> go.Figure:
    """Φ with one latent kept against Φ with all, a point a run; published sweeps behind."""
    figure = plain_figure(height=440, showlegend=False, hovermode="closest")
    x_range = _span(
        [float(p["phi_none"]) for p in points], [r.figures.fidelity("none") for r in runs]
    )
    y_range = _span(
        [float(p["phi_keep"]) for p in points], [r.figures.fidelity("keep-largest") for r in runs]
    )
    for place, objective in enumerate(objectives_of(points)):
        own = [point for point in points if point["objective"] == objective]
        _sweep(figure, own, objective, place)
    for run in runs:
        keep, every = run.figures.fidelity("keep-largest"), run.figures.fidelity("none")
        if keep is None or every is None:
            continue
        colour = f"var({run.colour})"
        figure.add_scatter(
            x=[every.value],
            y=[keep.value],
            error_x=_error_bar([every], colour),
            error_y=_error_bar([keep], colour),
            mode="markers+text",
            text=[run.name],
            textposition="bottom left" if every.value > sum(x_range) / 2 else "bottom right",
            textfont={"color": colour},
            marker={"size": 15, "color": colour, "line": {"width": 2, "color": "var(--page)"}},
            name=run.name,
            hovertemplate=f"<b>%{{fullData.name}}</b><br>{_PHI_HOVER}<extra></extra>",
        )
    line = {"color": "var(--axis)", "width": 1.5, "dash": "dot"}
    figure.add_shape(type="line", x0=-9, y0=-9, x1=9, y1=9, line=line, layer="below")
    figure.update_xaxes(title_text="Φ, all latents", range=x_range, automargin=True)
    figure.update_yaxes(range=y_range, automargin=True)
    figure.update_yaxes(title={"text": "Φ, only the largest latent", "standoff": 14})
    return figure


def fidelity_mean(runs: Sequence[ShownRun]) -> go.Figure:
    """Φ of every scheme, mean over blocks, with intervals; traces carry their kind of mid."""
    figure = _bars(height=90 + 5 * (14 + 17 * len(runs)))
    for run, mid in ((run, mid) for mid in mids_of(runs) for run in reversed(runs)):
        values = [run.figures.fidelity(scheme, mid) for scheme in SCHEME_LABELS]
        present = [(s, v) for s, v in zip(SCHEME_LABELS, values, strict=True) if v is not None]
        shown = [v for _, v in present]
        figure.add_bar(
            y=[SCHEME_LABELS[s] for s, _ in present],
            x=[v.value for v in shown],
            error_x=_error_bar(shown, "var(--ink)"),
            **_bar_style(run, mid, [v.value for v in shown]),
        )
    figure.update_xaxes(range=_phi_range(runs), title_text="Φ, mean over blocks")
    return figure


def fidelity_block(runs: Sequence[ShownRun], block: int) -> go.Figure:
    """Φ of every scheme at one block."""
    figure = _bars(height=48 + 5 * (8 + 12 * len(runs)))
    for run, mid in ((run, mid) for mid in mids_of(runs) for run in reversed(runs)):
        if block not in run.figures.blocks:
            continue
        place = run.figures.blocks.index(block)
        values = {s: run.figures.fidelity(s, mid) for s in SCHEME_LABELS}
        shown = {s: v.by_block[place] for s, v in values.items() if v is not None}
        figure.add_bar(
            y=[SCHEME_LABELS[s] for s in shown],
            x=list(shown.values()),
            **_bar_style(run, mid, list(shown.values())),
        )
    figure.update_xaxes(range=_phi_range(runs))
    figure.update_layout(margin_b=28)
    return figure


def share_block(runs: Sequence[ShownRun], block: int) -> go.Figure:
    """How the dominant share of neurons is distributed at one block."""
    figure = plain_figure(height=174, showlegend=False, hovermode="x unified")
    for run in runs:
        histogram = run.figures.share_histogram
        if histogram is None or block not in run.figures.blocks:
            continue
        heights = histogram.by_block[run.figures.blocks.index(block)]
        middles = [(low + high) / 2 for low, high in pairwise(histogram.edges)]
        figure.add_scatter(
            x=middles,
            y=heights,
            mode="lines",
            line={"color": f"var({run.colour})", "width": 2, "shape": "hvh"},
            fill="tozeroy",
            fillcolor=f"var({run.colour}-soft)",
            name=run.name,
            hovertemplate="%{y:.1%}",
        )
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_layout(margin_b=28)
    figure.update_yaxes(rangemode="tozero", tickformat=".0%", nticks=4, automargin=True)
    return figure


def fvu_hookpoints(runs: Sequence[ShownRun]) -> go.Figure:
    """FVU at each hookpoint, in forward order from the top."""
    figures = {run.name: run.figures.by_hookpoint.get("fvu", {}) for run in runs}
    names = list(dict.fromkeys(name for values in figures.values() for name in values))
    figure = plain_figure(height=70 + 24 * len(names), showlegend=False, hovermode="closest")
    labels = [short_hookpoint(name) for name in names]
    for name, label in zip(names, labels, strict=True):
        ends = [values[name] for values in figures.values() if name in values]
        line = {"color": "var(--grid)", "width": 3}
        figure.add_scatter(
            x=[min(ends), max(ends)], y=[label, label], mode="lines", line=line, hoverinfo="skip"
        )
    for run in runs:
        values = figures[run.name]
        figure.add_scatter(
            x=list(values.values()),
            y=[short_hookpoint(name) for name in values],
            mode="markers",
            marker={"size": 10, "color": f"var({run.colour})"},
            name=run.name,
            hovertemplate="%{y}: FVU %{x:.3f}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(rangemode="tozero", title_text="FVU")
    order = labels[::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    return figure


_PHI_HOVER = "all latents Φ %{x:.3f}<br>only the largest Φ %{y:.3f}"


def _sweep(figure: go.Figure, points: Points, objective: str, place: int) -> None:
    """One published objective: a dot a training, a line through the means over seeds."""
    strengths = sorted({float(point["strength"]) for point in points})
    at = [[p for p in points if float(p["strength"]) == strength] for strength in strengths]
    means = [
        [sum(float(p[key]) for p in group) / len(group) for group in at]
        for key in ("phi_none", "phi_keep")
    ]
    colour = f"var({published_colour(place)})"
    line = {"color": colour, "width": 1.2}
    figure.add_scatter(x=means[0], y=means[1], mode="lines", line=line, hoverinfo="skip")
    details = [f"{objective} {p['strength']:g}, seed {p['seed']}" for p in points]
    figure.add_scatter(
        x=[float(p["phi_none"]) for p in points],
        y=[float(p["phi_keep"]) for p in points],
        customdata=[[text, float(p["fvu"])] for text, p in zip(details, points, strict=True)],
        mode="markers",
        marker={"size": 6, "symbol": SYMBOLS[place % len(SYMBOLS)], "color": colour},
        name=objective,
        hovertemplate=f"%{{customdata[0]}}<br>{_PHI_HOVER}<br>FVU %{{customdata[1]:.3f}}"
        "<extra>published</extra>",
    )


def plain_figure(**layout: Any) -> go.Figure:
    """An empty figure in the page's manner: no zooming, narrow margins."""
    margin = {"l": 8, "r": 16, "t": 12, "b": 44}
    empty = go.layout.Template()
    figure = go.Figure(layout=go.Layout(template=empty, margin=margin, dragmode=False, **layout))
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    return figure


def _bars(height: int) -> go.Figure:
    figure = plain_figure(
        height=height, showlegend=False, barmode="group", bargap=0.28, bargroupgap=0.1
    )
    order = list(SCHEME_LABELS.values())[::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    return figure


def _bar_style(run: ShownRun, mid: str, values: Sequence[float]) -> dict[str, Any]:
    return {
        "orientation": "h",
        "name": run.name,
        "marker": {"color": f"var({run.colour})"},
        "text": [f"{value:.2f}" if value < LOWEST_PHI else "" for value in values],
        "meta": mid,
        "visible": mid == "exact_mid",
        "hovertemplate": "%{y}: Φ %{x:.3f}<extra>%{fullData.name}</extra>",
    }


def _phi_range(runs: Sequence[ShownRun]) -> list[float]:
    """One range for all panels, so that they compare."""
    values = [0.0, 1.0]
    for run, mid in ((run, mid) for run in runs for mid in mids_of(runs)):
        for scheme in SCHEME_LABELS:
            whole = run.figures.fidelity(scheme, mid)
            values += (*whole.by_block, *whole.ends) if whole is not None else ()
    values = [value for value in values if not math.isnan(value)]
    return [max(min(values), LOWEST_PHI) - 0.02 * (min(values) < 0), max(values)]


def _span(points: Sequence[float], values: Sequence[Estimate | None]) -> list[float]:
    """From a little below the lowest to 1, or to a little above the highest."""
    ends = [end for value in values if value is not None for end in value.ends]
    shown = [max(end, LOWEST_PHI) for end in (*points, *ends)]
    margin = 0.06 * max(1 - min(shown), 0.2)
    return [min(shown) - margin, max(1.0, max(shown) + margin)]


def _error_bar(values: Sequence[Estimate], colour: str) -> dict[str, Any] | None:
    if not all(v.ci for v in values):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [v.ends[1] - v.value for v in values],
        "arrayminus": [v.value - v.ends[0] for v in values],
        "color": colour,
        "thickness": 1.4,
        "width": 3,
    }
