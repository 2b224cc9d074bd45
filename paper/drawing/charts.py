"""Charts, described once for every kind of picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Number = float | int


@dataclass(frozen=True)
class Series:
    """One line, set of points or set of bars; equal names share a colour and a legend entry."""

    name: str
    x: Sequence[Number | str]
    """Numbers, or categories (bars)."""
    y: Sequence[Number]
    low: Sequence[Number] | None = None
    """Lower and upper ends of the interval of each `y`."""
    high: Sequence[Number] | None = None
    kind: Literal["line", "points", "bars", "level"] = "line"
    """level: a horizontal line at `y[0]` with its interval; `x` is not used."""
    x_low: Sequence[Number] | None = None
    """Interval of each `x`, for points in a plane."""
    x_high: Sequence[Number] | None = None
    labels: Sequence[str] | None = None
    """What each point is, beside it in the HTML."""


@dataclass(frozen=True)
class Heatmap:
    """A matrix, drawn with rows downwards."""

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[Number]]
    numbers: bool = False
    """Write each value into its cell."""
    diverging: bool = False
    """Colours centred at zero."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes, with series or with a matrix."""

    title: str = ""
    x_label: str = ""
    y_label: str = ""
    series: Sequence[Series] = ()
    heat: Heatmap | None = None
    x_log: bool = False
    y_log: bool = False
    x_range: tuple[Number, Number] | None = None
    y_range: tuple[Number, Number] | None = None
    diagonal: bool = False
    """Draw y = x."""


@dataclass(frozen=True)
class Chart:
    """Panels in rows of `columns`, with one legend."""

    title: str
    panels: Sequence[Panel]
    columns: int = 2
    panel_height: Number = 2.6
    """Inches of a panel in the PNG, which is 8 inches wide."""
