"""Charts as HTML, by plotly; plotly.min.js is written once beside them, so they work offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from crossproof.files import atomic_file
from paper.drawing.charts import Chart, Panel, Series
from paper.drawing.look import bar_places, categories, colour, errors, places_of, rows_of

SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down"),
    *("cross", "star", "x", "pentagon", "hexagon"),
)
ROW = 340
"""Pixels of a row of panels."""


def draw_html(chart: Chart, path: Path) -> None:
    """Writes the chart."""
    columns, rows = min(chart.columns, len(chart.panels)), rows_of(chart)
    titles = [panel.title for panel in chart.panels]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.28 / rows)
    places, seen = places_of(chart), set[str]()
    for number, panel in enumerate(chart.panels):
        where = {"row": number // columns + 1, "col": number % columns + 1}
        _axes(figure, panel, where)
        for series in panel.series:
            _series(figure, series, panel, places[series.name], series.name not in seen, where)
            seen.add(series.name)
    figure.update_layout(
        title=chart.title,
        template="plotly_white",
        height=ROW * rows + 160,
        legend={"orientation": "h", "y": -0.12 / rows, "yanchor": "top"},
        hovermode="closest",
    )
    with atomic_file(path) as temporary:
        figure.write_html(temporary, include_plotlyjs="directory", div_id=path.stem)


def _axes(figure: go.Figure, panel: Panel, where: dict[str, int]) -> None:
    figure.update_xaxes(title_text=panel.x_label, **where)
    figure.update_yaxes(title_text=panel.y_label, **where)
    if panel.heat is not None:
        heat = panel.heat
        figure.add_heatmap(
            x=list(heat.columns),
            y=list(heat.rows),
            z=[list(row) for row in heat.values],
            colorscale="RdBu_r" if heat.diverging else "Blues",
            zmid=0 if heat.diverging else None,
            showscale=False,
            texttemplate="%{z:.2g}" if heat.numbers else None,
            **where,
        )
        figure.update_yaxes(autorange="reversed", **where)
        return
    kinds = categories(panel)
    if kinds:
        figure.update_xaxes(tickvals=list(range(len(kinds))), ticktext=kinds, **where)
    figure.update_xaxes(type="log" if panel.x_log else "linear", **where)
    figure.update_yaxes(type="log" if panel.y_log else "linear", **where)
    if panel.x_range is not None and not panel.x_log:
        figure.update_xaxes(range=list(panel.x_range), **where)
    if panel.y_range is not None and not panel.y_log:
        figure.update_yaxes(range=list(panel.y_range), **where)
    if panel.diagonal:
        line = {"dash": "dot", "color": "#999999"}
        figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line=line, **where)


def _series(
    figure: go.Figure,
    series: Series,
    panel: Panel,
    place: int,
    first: bool,
    where: dict[str, int],
) -> None:
    style: dict[str, Any] = {
        "name": series.name,
        "legendgroup": series.name,
        "showlegend": first and bool(series.name),
    }
    shade = colour(place)
    if series.kind == "level":
        ends = [x for other in panel.series if other.kind != "level" for x in other.x]
        span = [min(ends), max(ends)] if ends else [0, 1]
        line = {"color": shade, "dash": "dash"}
        y = [series.y[0]] * 2
        figure.add_scatter(x=span, y=y, mode="lines", line=line, **style, **where)
        return
    error_y = _bars(errors(series.y, series.low, series.high))
    if series.kind == "bars":
        at, width = bar_places(series, panel)
        figure.add_bar(
            x=at,
            y=list(series.y),
            width=width,
            marker_color=shade,
            error_y=error_y,
            **style,
            **where,
        )
        return
    labels = list(series.labels) if series.labels is not None else None
    figure.add_scatter(
        x=list(series.x),
        y=list(series.y),
        mode="lines+markers" if series.kind == "line" else "markers",
        marker={"color": shade, "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
        line={"color": shade},
        error_y=error_y,
        error_x=_bars(errors(series.x, series.x_low, series.x_high)),
        text=labels,
        hovertemplate="%{text}<br>%{x:.3g}, %{y:.3f}" if labels else "%{x:.3g}, %{y:.3f}",
        **style,
        **where,
    )


def _bars(ends: tuple[list[float], list[float]] | None) -> dict[str, Any] | None:
    if ends is None:
        return None
    below, above = ends
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
