"""What all figures of the page share: a panel, an empty figure, error bars, squares of colours.

Colours are custom properties of the page's style sheet: its script replaces `var(--name)` by the
value of the moment, so that one figure serves light and dark. Nothing depends on the page's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from crossproof.tables import Estimate


class Panel(NamedTuple):
    """A figure as the page shows it."""

    title: str
    told: str
    """What a reader who cannot see the figure is told."""
    figure: go.Figure


def plain_figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the page's manner: no zooming, no legend, narrow margins."""
    margin = {"l": 8, "r": 16, "t": 12, "b": 44}
    empty = go.layout.Template()
    plain = {"template": empty, "margin": margin, "dragmode": False, "showlegend": False}
    figure = go.Figure(layout=go.Layout(height=height, **plain, **layout))
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    return figure


def error_bar(values: Sequence[Estimate], colour: str) -> dict[str, Any] | None:
    """The intervals of a trace's values; None where there are none."""
    if not any(value.ci for value in values):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [value.ends[1] - value.value for value in values],
        "arrayminus": [value.value - value.ends[0] for value in values],
        "color": colour,
        "thickness": 1.4,
        "width": 3,
    }


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    colours: Sequence[str],
    hover: str,
    *,
    height: int = 380,
    largest: float | None = None,
    labels: bool = True,
) -> go.Figure:
    """A rectangle of values, the first row on top.

    `colours` go from the least value to the most, or from -`largest` to `largest`.
    """
    figure = plain_figure(height)
    limits = {} if largest is None else {"zmin": -largest, "zmax": largest}
    figure.add_heatmap(
        x=list(columns),
        y=list(rows),
        z=[list(row) for row in values],
        colorscale=[[at / (len(colours) - 1), colour] for at, colour in enumerate(colours)],
        showscale=False,
        hoverongaps=False,
        hovertemplate=f"{hover}: %{{z:.3g}}<extra></extra>",
        **limits,
    )
    style = {"type": "category", "showticklabels": labels, "tickfont": {"size": 9}}
    style |= {"showgrid": False, "ticks": "outside" if labels else "", "automargin": True}
    figure.update_xaxes(tickangle=-90, **style)
    figure.update_yaxes(autorange="reversed", **style)
    return figure
