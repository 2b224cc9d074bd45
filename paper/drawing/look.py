"""What PNG and HTML share: colours, and where bars stand."""

from __future__ import annotations

from collections.abc import Sequence

from paper.drawing.charts import Chart, Number, Panel, Series

COLOURS = (
    *("#7d868f", "#d9822b", "#3d8fd1", "#2f9e7d", "#c2699c"),
    *("#8a6fd1", "#b5a12b", "#d14d4d", "#4bb3c2", "#6b4f3a"),
)
"""Grey first: the first series is usually the one to compare with."""
GREY = "#555d66"
MARKERS = "osD^vP*Xph"
BAR = 0.8
"""Width of all bars of a category together."""


def places_of(chart: Chart) -> dict[str, int]:
    """Each series name's place among all of the chart's, which decides its colour."""
    names = (series.name for panel in chart.panels for series in panel.series)
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def colour(place: int) -> str:
    """The colour of a place; they repeat after ten."""
    return COLOURS[place % len(COLOURS)]


def rows_of(chart: Chart) -> int:
    """Rows of panels."""
    return -(-len(chart.panels) // min(chart.columns, len(chart.panels)))


def categories(panel: Panel) -> list[str]:
    """The categories of a panel's bars, in the order of their first use."""
    bars = (series for series in panel.series if series.kind == "bars")
    return list(dict.fromkeys(str(x) for series in bars for x in series.x))


def bar_places(series: Series, panel: Panel) -> tuple[list[float], float]:
    """Where a series' bars stand (category c around c) and how wide they are."""
    groups = [other for other in panel.series if other.kind == "bars"]
    width = BAR / len(groups)
    shift = (groups.index(series) - (len(groups) - 1) / 2) * width
    kinds = categories(panel)
    return [kinds.index(str(x)) + shift for x in series.x], width * 0.92


def errors(
    middle: Sequence[Number | str], low: Sequence[Number] | None, high: Sequence[Number] | None
) -> tuple[list[float], list[float]] | None:
    """Lengths of error bars below and above; an interval need not hold its middle."""
    if low is None or high is None:
        return None
    values = [float(value) for value in middle]
    below = [max(v - end, 0.0) for v, end in zip(values, low, strict=True)]
    above = [max(end - v, 0.0) for v, end in zip(values, high, strict=True)]
    return below, above
