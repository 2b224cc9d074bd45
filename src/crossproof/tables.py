"""Tables: the rows that a terminal, a page, Markdown, a data frame and a `repr` all render.

A value is put into a table as it is; how it is written (digits, intervals, percent) is decided
here, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas
    import rich.table

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
    return minus(f"{value:.1%}")


def signed(value: float) -> str:
    """A difference, its sign always shown, with three decimals."""
    return minus(f"{value:+.3f}")


def fixed(digits: int) -> Style:
    """A style with so many decimals."""
    return lambda value: minus(f"{value:,.{digits}f}")


def significant(digits: int) -> Style:
    """A style with so many significant digits."""
    return lambda value: minus(f"{value:,.{digits}g}")


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
        whole = count if style is number else style
        return Cell(whole(float(value)), "", value)
    bounds = interval(*ci, style) if ci is not None and all(map(math.isfinite, ci)) else ""
    return Cell(style(mean), bounds, value)


@dataclass(frozen=True)
class Row:
    """A label, a value a column, and a note that explains the row."""

    label: str
    values: tuple[Value, ...]
    note: str = ""
    style: Style = number

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The values as written."""
        return tuple(cell(value, self.style) for value in self.values)


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

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Headings, then every row, as text."""
        yield (self.corner, *self.columns)
        for row in self.rows:
            yield (row.label, *map(str, row.cells))

    def to_text(self) -> str:
        """Plain text in aligned columns, for `repr` and logs."""
        lines = list(self.lines())
        widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
        rows = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        ]
        return "\n".join([self.title, *rows, *([self.note] if self.note else [])])

    def to_markdown(self) -> str:
        """A Markdown table, without title and note."""
        heading, *rows = (" | ".join(_escaped(part) for part in line) for line in self.lines())
        rule = " | ".join(["---", *["---:"] * len(self.columns)])
        return "\n".join(f"| {line} |" for line in (heading, rule, *rows))

    def to_rich(self) -> rich.table.Table:
        """For `rich.console.Console.print`."""
        from rich.table import Table as RichTable
        from rich.text import Text

        made = RichTable(title=self.title or None, caption=self.note or None)
        for at, heading in enumerate((self.corner, *self.columns)):
            made.add_column(Text(heading), justify="right" if at else "left", overflow="fold")
        for label, *texts in list(self.lines())[1:]:
            made.add_row(Text(label), *map(Text, texts))
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
