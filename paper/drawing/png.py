"""Charts as PNG, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossproof.files import atomic_file
from paper.drawing.charts import Chart, Heatmap, Panel, Series
from paper.drawing.look import (
    GREY,
    MARKERS,
    bar_places,
    categories,
    colour,
    errors,
    places_of,
    rows_of,
)

WIDTH, DPI = 8.0, 110


def draw_png(chart: Chart, path: Path) -> None:
    """Writes the chart; equal charts give equal bytes."""
    columns = min(chart.columns, len(chart.panels))
    rows = rows_of(chart)
    height = chart.panel_height * rows + 0.9
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    places = places_of(chart)
    for panel, area in zip(chart.panels, axes, strict=False):
        _panel(panel, area, places)
    for area in axes[len(chart.panels) :]:
        area.set_visible(False)
    figure.suptitle(chart.title, fontsize=11)
    handles: dict[str, Any] = {}
    for area in axes:
        for handle, label in zip(*area.get_legend_handles_labels(), strict=True):
            handles.setdefault(str(label), handle)
    if len(handles) > 1:
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize=8,
        )
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def _panel(panel: Panel, area: Axes, places: dict[str, int]) -> None:
    area.set_title(panel.title, fontsize=9)
    area.set_xlabel(panel.x_label, fontsize=8)
    area.set_ylabel(panel.y_label, fontsize=8)
    area.tick_params(labelsize=7)
    if panel.heat is not None:
        _heat(panel.heat, area)
        return
    for side in ("top", "right"):
        area.spines[side].set_visible(False)
    area.grid(alpha=0.2, linewidth=0.6)
    if panel.diagonal:
        area.axline((0, 0), slope=1, color=GREY, linestyle=":", linewidth=1)
    kinds = categories(panel)
    for series in panel.series:
        _series(series, panel, area, places)
    if kinds:
        area.set_xticks(range(len(kinds)), kinds)
    if panel.x_log:
        area.set_xscale("log")
    if panel.y_log:
        area.set_yscale("log")
    if panel.x_range is not None:
        area.set_xlim(*panel.x_range)
    if panel.y_range is not None:
        area.set_ylim(*panel.y_range)


def _series(series: Series, panel: Panel, area: Axes, places: dict[str, int]) -> None:
    shade = colour(places[series.name])
    label = series.name or None
    if series.kind == "level":
        area.axhline(series.y[0], color=shade, linestyle="--", linewidth=1.2, label=label)
        if series.low is not None and series.high is not None:
            area.axhspan(series.low[0], series.high[0], color=shade, alpha=0.12, linewidth=0)
        return
    spread = errors(series.y, series.low, series.high)
    bars: dict[str, Any] = {"ecolor": shade, "elinewidth": 1.0, "capsize": 2}
    if series.kind == "bars":
        at, width = bar_places(series, panel)
        area.bar(at, series.y, width, color=shade, label=label)
        if spread is not None:
            bars["ecolor"] = GREY
            area.errorbar(at, series.y, spread, fmt="none", **bars)
        return
    area.errorbar(
        series.x,
        series.y,
        yerr=spread,
        xerr=errors(series.x, series.x_low, series.x_high),
        fmt=MARKERS[places[series.name] % len(MARKERS)] + ("-" if series.kind == "line" else ""),
        markersize=4,
        linewidth=1.2,
        color=shade,
        label=label,
        **bars,
    )


def _heat(heat: Heatmap, area: Axes) -> None:
    limit = max((abs(v) for row in heat.values for v in row), default=1.0)
    scale: dict[str, Any] = (
        {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if heat.diverging else {"cmap": "Blues"}
    )
    image = area.imshow(heat.values, aspect="auto", **scale)
    area.set_xticks(range(len(heat.columns)), heat.columns, rotation=60, ha="right")
    area.set_yticks(range(len(heat.rows)), heat.rows)
    if heat.numbers:
        middle = sum(image.get_clim()) / 2
        for i, row in enumerate(heat.values):
            for j, value in enumerate(row):
                dark = value > middle and not heat.diverging
                shade = "white" if dark else "black"
                area.text(j, i, f"{value:.2g}", ha="center", va="center", fontsize=7, color=shade)
    area.figure.colorbar(image, ax=area, fraction=0.046).ax.tick_params(labelsize=7)
