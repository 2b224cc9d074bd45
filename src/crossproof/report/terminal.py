"""What the command line shows while it works: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text

from crossproof.errors import printable
from crossproof.evaluation.contexts import Context
from crossproof.evaluation.measurement import PairFigures
from crossproof.evaluation.naming import abbreviated, pair_name
from crossproof.tables import Row, Table, Value
from crossproof.training.loop import Progress as TrainingProgress
from crossproof.training.run import Report
from crossproof.working import PAUSE, while_it_lasts

console = Console()
_LABEL_WIDTH, _HEADING_WIDTH = 24, 12
"""Characters that a row's label and a column's heading take before they are broken."""


@contextmanager
def training_display(steps: int, done: int = 0) -> Iterator[Report]:
    """A reporter for `train`: a progress bar and one row of figures a crosscoder."""
    if not console.is_terminal:
        yield _print_lines
        return
    bar = Progress(
        TextColumn("training"),
        BarColumn(_bar()),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        *_times(),
        console=console,
    )
    task = bar.add_task("training", total=steps, completed=done, speed=0.0)
    with Live(bar, console=console, refresh_per_second=4) as live:

        def report(progress: TrainingProgress) -> None:
            bar.update(task, completed=progress.step, speed=progress.tokens_per_second)
            live.update(Group(_terms(progress), bar))

        yield report


def _terms(progress: TrainingProgress) -> RichTable:
    names = sorted({term for step in progress.reports.values() for term in step.terms})
    table = RichTable(box=None, header_style="bold")
    for heading in ("crosscoder", "loss", *names, "L0", "dead"):
        table.add_column(heading, justify="left" if heading == "crosscoder" else "right")
    for name, step in progress.reports.items():
        terms = [f"{step.terms[t].item():.4g}" if t in step.terms else "" for t in names]
        row = [
            escape(printable(name)),
            f"{step.loss.item():.4f}",
            *terms,
            f"{float(step.l0):.1f}",
            str(int(step.dead)),
        ]
        table.add_row(*row)
    return table


def _print_lines(progress: TrainingProgress) -> None:
    for name, step in progress.reports.items():
        terms = "  ".join(f"{term} {value.item():.4g}" for term, value in step.terms.items())
        say(
            f"step {progress.step}/{progress.steps}  {name}: loss {step.loss.item():.4f}  {terms}  "
            f"L0 {float(step.l0):.1f}  dead {int(step.dead)}  "
            f"{progress.tokens_per_second:,.0f} tokens/s  "
            f"{progress.seconds_left:.0f} s left"
        )


@contextmanager
def evaluation_display(
    doing: str = "evaluating", unit: str = "held-out sequences"
) -> Iterator[Any]:
    """A reporter for `evaluate_run` and its like: sequences done, a bar a crosscoder.

    Where there is no terminal to draw on, a line now and then. What follows the last sequence
    (intervals, contexts) shows that it goes on.
    """
    if not console.is_terminal:
        lines = _Lines(doing, unit)
        with while_it_lasts(lines.silence):
            yield lines.report
        return
    bar = Progress(
        SpinnerColumn(table_column=Column(no_wrap=True)),
        _Name(f"{doing} {{task.description}}".strip()),
        BarColumn(_bar()),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        *_times(),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def report(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(escape(printable(name)), total=total)
        bar.update(tasks[name], completed=done)

    with bar:
        yield report


class _Name(TextColumn):
    """What is done to what: with the bar it makes room on a narrow terminal, and is cut, never
    broken into lines."""

    def __init__(self, form: str) -> None:
        super().__init__(form, table_column=Column())

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


def _bar() -> int:
    """How long bars are: names say more than they do."""
    return min(40, console.width // 6)


def _times() -> tuple[ProgressColumn, ...]:
    """How long it has taken and what is left, which no terminal is too narrow for."""
    return (
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TextColumn("left"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )


def say(line: str) -> None:
    """Prints a line at once; what would steer the terminal is spelt."""
    print(printable(line), flush=True)


def print_tables(tables: Iterable[Table]) -> None:
    """Prints the tables of a result, one below the other; those too wide, in parts."""
    for table in tables:
        for part in _parts(table, console.width):
            console.print(part.to_rich())


def _parts(table: Table, width: int) -> Iterator[Table]:
    """The table, cut where its columns (a dictionary each, of a model's layers) do not fit.

    Cells break between a figure, and the ends of its interval, and headings anywhere.
    """
    (_, *headings), *lines = table.lines()
    labels = max([_LABEL_WIDTH // 2, *(len(line[0]) for line in lines)])
    room = width - min(labels, _LABEL_WIDTH)
    starts, left = [0], room
    for at, heading in enumerate(headings):
        words = [word for line in lines for word in line[at + 1].split()]
        named = min(max(map(len, heading.split()), default=0), _HEADING_WIDTH)
        needed = max([named, *map(len, words)]) + 2
        if needed > left and at > starts[-1]:
            starts.append(at)
            left = room
        left -= needed
    for first, last in pairwise([*starts, len(headings)]):
        rows = (_between(row, first, last) for row in table.rows)
        yield replace(
            table,
            title=f"{table.title}, continued" if first else table.title,
            columns=table.columns[first:last],
            rows=tuple(row for row in rows if len(starts) == 1 or any(map(_there, row.values))),
            note=table.note if last == len(headings) else "",
        )


def _there(value: Value) -> bool:
    return value is not None


def _between(row: Row, first: int, last: int) -> Row:
    style = row.style[first:last] if isinstance(row.style, tuple) else row.style
    return replace(row, values=row.values[first:last], style=style)


class _Lines:
    """Lines when something begins, every PAUSE seconds with the time that is left, and at its end;
    and about what comes after that."""

    def __init__(self, doing: str, unit: str) -> None:
        self.doing, self.unit = doing, unit
        self.began: dict[str, tuple[float, int]] = {}
        """By name: when it was first heard of, and how much was done then."""
        self.said: dict[str, float] = {}
        self.last, self.current = time.monotonic(), ""
        self.left: float | None = None
        """Seconds that were left then."""
        self.patience = PAUSE
        """How long nothing may be reported until a line says so; doubled by every such line."""

    def report(self, name: str, done: int, total: int) -> None:
        """Takes that `done` of `total` are done."""
        now = time.monotonic()
        self.last, self.current, self.patience = now, name, PAUSE
        began, before = self.began.setdefault(name, (now, done))
        rate = (now - began) / (done - before) if done > before else None
        self.left = None if rate is None or done == total else rate * (total - done)
        if name in self.said and done < total and now - self.said[name] < PAUSE:
            return
        self.said[name] = now
        line = f"{self.doing} {name}: {done}/{total} {self.unit}".strip()
        if self.left is not None:
            line += f", {self.left:.0f} s left"
        say(line)

    def silence(self, _: float) -> str:
        """The line about a time in which nothing was reported; empty if it was short."""
        quiet = time.monotonic() - self.last
        if quiet < self.patience:
            return ""
        self.patience = 2 * quiet
        what = f"{self.doing} {self.current}".strip()
        line = f"{what}: " if what else ""
        line += f"working, {quiet:.0f} s since the last step"
        if self.left is not None and self.left > quiet:
            line += f", {self.left - quiet:.0f} s left"
        return line


def print_contexts(
    title: str, pairs: Iterable[PairFigures], dictionaries: Mapping[str, int]
) -> None:
    """Where each pair of latents interacts most, at the word in brackets."""
    console.print(
        Text(f"{printable(title)}: where each pair interacts most, at the word in brackets", "dim")
    )
    names, _ = abbreviated(dictionaries, ())  # as in the table of pairs, which explains them
    for pair in pairs:
        line = Text(f"  {pair_name(pair.latents, names):10s} ", overflow="fold")
        console.print(line.append(_excerpt(pair.contexts)))


def _excerpt(contexts: Sequence[Context], before: int = 8, after: int = 3) -> Text:
    """The strongest context around its peak, which stands in brackets: a file has no bold type."""
    text = Text()
    for context in contexts[:1]:
        for at in range(max(context.peak - before, 0), context.peak + after + 1):
            token = printable("".join(context.tokens[at : at + 1]).replace("\n", "↵"))
            word = token.lstrip() or token
            text.append(token.removesuffix(word))
            if at == context.peak:
                text.append(f"[{word}]", style="bold")
            else:
                text.append(word)
    return text
