"""Tables: the rows that a terminal, a page, Markdown, a data frame and a `repr` all render.

A value is put into a table as it is; how it is written (digits, intervals, percent) is decided
here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING, Any

from crossproof.errors import printable

if TYPE_CHECKING:
    import pandas
    import rich.table

__all__ = (
    "DASH",
    "Cell",
    "Estimate",
    "Row",
    "Style",
    "Table",
    "Value",
    "at_least",
    "at_most",
    "cell",
    "count",
    "fixed",
    "interval",
    "minus",
    "number",
    "percent",
    "signed",
    "significant",
)

_NO_BREAK = "\u00a0"
"""Labels with such a blank are not broken in a terminal's table."""
DASH = "–"
"""What stands for a value that is missing or not defined."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval; None where it is not defined or has no interval."""

    mean: float | None
    ci: tuple[float, float] | None = None

    @property
    def defined(self) -> bool:
        """Whether there is a finite figure."""
        return self.mean is not None and math.isfinite(self.mean)

    @property
    def value(self) -> float:
        """The figure; NaN where it is not defined."""
        return math.nan if self.mean is None else self.mean

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; the figure twice where there is none."""
        if self.ci is None or not all(map(math.isfinite, self.ci)):
            return self.value, self.value
        return self.ci

    def overlaps(self, other: Estimate) -> bool:
        """Whether the intervals share a point; a figure without interval is its own."""
        return self.ends[0] <= other.ends[1] and other.ends[0] <= self.ends[1]


Value = float | int | str | bool | Estimate | None
Style = Callable[[float], str]
"""Writes a finite number."""


def number(value: float) -> str:
    """Three decimals for small numbers, fewer for large ones, thousands separated."""
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 10_000 else 0
    return minus(f"{value:,.{digits}f}")


def count(value: float) -> str:
    """A whole number, thousands separated."""
    return minus(f"{value:,.0f}")


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return minus(f"{value:z.1%}")


def signed(value: float) -> str:
    """A difference, its sign always shown, with three decimals."""
    return minus(f"{value:+.3f}")


def fixed(digits: int) -> Style:
    """A style with so many decimals."""
    return lambda value: minus(f"{value:,.{digits}f}")


def significant(digits: int) -> Style:
    """A style with so many significant digits."""
    return lambda value: minus(f"{value:,.{digits}g}")


def at_least(digits: int = 3, percent: bool = False) -> Style:
    """A style for certified lower bounds: rounded down, so that what is printed is proved."""
    return lambda value: _directed(value, digits, percent, ROUND_FLOOR)


def at_most(digits: int = 3, percent: bool = False) -> Style:
    """A style for certified upper bounds: rounded up."""
    return lambda value: _directed(value, digits, percent, ROUND_CEILING)


def _directed(value: float, digits: int, percent: bool, rounding: str) -> str:
    exact = Context(prec=800, rounding=rounding)  # holds every float64 as it is
    scaled = exact.multiply(Decimal(value), Decimal(100 if percent else 1))
    rounded = exact.quantize(scaled, Decimal(1).scaleb(-digits))
    rounded = rounded if rounded else rounded.copy_abs()  # no minus before zero
    return minus(f"{rounded:,.{digits}f}{'%' if percent else ''}")


def minus(text: str) -> str:
    """The same number with a true minus sign."""
    return text.replace("-", "−")


def interval(low: float, high: float, style: Style = number) -> str:
    """`[low, high]`."""
    return f"[{style(low)}, {style(high)}]"


@dataclass(frozen=True)
class Cell:
    """A value as written: the figure, its interval (or ""), and the value itself."""

    text: str
    interval: str
    value: Value

    @property
    def number(self) -> float | None:
        """The figure as a number; None if it is none or not defined."""
        mean = self.value.mean if isinstance(self.value, Estimate) else self.value
        if mean is None or isinstance(mean, str | bool) or not math.isfinite(mean):
            return None
        return float(mean)

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, if it is shown."""
        return self.value.ci if self.interval and isinstance(self.value, Estimate) else None

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()


def cell(value: Value, style: Style = number) -> Cell:
    """A value as written; a dash where it is missing or not finite."""
    if isinstance(value, bool | str):
        return Cell("yes" if value is True else "no" if value is False else value, "", value)
    mean, ci = (value.mean, value.ci) if isinstance(value, Estimate) else (value, None)
    if mean is None or not math.isfinite(mean):
        return Cell(DASH, "", value)
    if isinstance(value, int):
        return Cell((count if style is number else style)(float(value)), "", value)
    bounds = interval(*ci, style) if ci is not None and all(map(math.isfinite, ci)) else ""
    return Cell(style(float(mean)), bounds, value)


@dataclass(frozen=True)
class Row:
    """A label, a value a column, and a note that explains the row."""

    label: str
    values: tuple[Value, ...]
    note: str = ""
    style: Style | tuple[Style, ...] = number
    """How numbers are written: one style, or one a value."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The values as written."""
        styles = self.style if isinstance(self.style, tuple) else (self.style,) * len(self.values)
        return tuple(map(cell, self.values, styles))


@dataclass(frozen=True)
class Table:
    """Rows under column headings. The first column holds the rows' labels."""

    title: str
    columns: tuple[str, ...]
    """Headings of the value columns."""
    rows: tuple[Row, ...]
    corner: str = ""
    """Heading of the labels."""
    note: str = ""
    """A sentence below the table."""

    @classmethod
    def of(
        cls,
        title: str,
        columns: Sequence[str],
        rows: Mapping[str, Sequence[Value]],
        style: Style = number,
        **more: Any,
    ) -> Table:
        """A table of rows by label, all in one style."""
        made = tuple(Row(label, tuple(values), style=style) for label, values in rows.items())
        return cls(title, tuple(columns), made, **more)

    def is_text(self, column: int) -> bool:
        """Whether a value column holds words, which are aligned on the left."""
        return all(isinstance(row.values[column], str) for row in self.rows)

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Headings, then every row, as text that steers no terminal."""
        yield tuple(map(printable, (self.corner, *self.columns)))
        for row in self.rows:
            yield tuple(map(printable, (row.label, *map(str, row.cells))))

    def to_text(self) -> str:
        """Plain text in aligned columns, for `repr` and logs."""
        lines = list(self.lines())
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        left = [True, *map(self.is_text, range(len(self.columns)))]
        align = [str.ljust if at else str.rjust for at in left]
        rows = [
            "  ".join(a(part, width) for a, part, width in zip(align, line, widths, strict=True))
            for line in lines
        ]
        lines_of_text = [printable(self.title), *map(str.rstrip, rows), printable(self.note)]
        return "\n".join(line for line in lines_of_text if line)

    def to_markdown(self) -> str:
        """A Markdown table, without title and note; columns of text stay on the left."""
        heading, *rows = (" | ".join(_escaped(part) for part in line) for line in self.lines())
        texts = map(self.is_text, range(len(self.columns)))
        rule = " | ".join(["---", *("---" if text else "---:" for text in texts)])
        return "\n".join(f"| {line} |" for line in (heading, rule, *rows))

    def to_rich(self) -> rich.table.Table:
        """For `rich.console.Console.print`."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        title, note = printable(self.title), printable(self.note)
        corner, *headings = next(self.lines())
        # As narrow as can be: 80 columns hold seven.
        made = RichTable(
            title=Text(f"\n{title}", style="italic") if title else None,
            caption=Text(note, style="dim") if note else None,
            box=SIMPLE_HEAD,
            collapse_padding=True,
            show_edge=False,
            pad_edge=False,
        )
        made.title_justify = made.caption_justify = "left"
        whole = [len(row.label) for row in self.rows if _NO_BREAK in row.label]  # headings break
        made.add_column(Text(corner), overflow="fold", min_width=min(max(whole, default=0), 20))
        for at, heading in enumerate(headings):
            made.add_column(
                Text(heading), justify="left" if self.is_text(at) else "right", overflow="fold"
            )
        for line in list(self.lines())[1:]:
            made.add_row(*map(Text, line))
        return made

    def to_frame(self) -> pandas.DataFrame:
        """Means as a data frame with the rows' labels as index; intervals as columns `X low`,
        `X high`. Raises CrossproofError if pandas is not installed."""
        from crossproof.extras import needed

        pandas = needed("pandas", "pandas", "data frames")
        columns: dict[str, list[Any]] = {}
        for at, heading in enumerate(self.columns):
            values = [row.values[at] for row in self.rows]
            columns[heading] = [v.mean if isinstance(v, Estimate) else v for v in values]
            bounds = [v.ci if isinstance(v, Estimate) else None for v in values]
            if any(bound is not None for bound in bounds):
                for end, name in enumerate(("low", "high")):
                    columns[f"{heading} {name}"] = [b[end] if b else None for b in bounds]
        labels = [row.label for row in self.rows]
        return pandas.DataFrame(columns, index=pandas.Index(labels, name=self.corner or None))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
