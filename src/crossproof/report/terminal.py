"""What the command line shows while it works: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from crossproof.training.loop import Progress as TrainingProgress
from crossproof.training.run import Report

console = Console()
PAUSE = 10.0
"""Seconds between lines about one thing, where there is no terminal to draw on."""


@contextmanager
def training_display(steps: int, done: int = 0) -> Iterator[Report]:
    """A reporter for `train`: a progress bar and one row of figures a crosscoder."""
    if not console.is_terminal:
        yield _print_lines
        return
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[speed]:,.0f} tokens/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    task = bar.add_task("training", total=steps, completed=done, speed=0.0)
    with Live(bar, console=console, refresh_per_second=4) as live:

        def report(progress: TrainingProgress) -> None:
            bar.update(task, completed=progress.step, speed=progress.tokens_per_second)
            live.update(Group(_terms(progress), bar))

        yield report


def _terms(progress: TrainingProgress) -> Table:
    names = sorted({term for step in progress.reports.values() for term in step.terms})
    table = Table(box=None, header_style="bold")
    for heading in ("crosscoder", "loss", *names, "L0", "dead"):
        table.add_column(heading, justify="left" if heading == "crosscoder" else "right")
    for name, step in progress.reports.items():
        terms = [f"{step.terms[t].item():.4g}" if t in step.terms else "" for t in names]
        row = [name, f"{step.loss.item():.4f}", *terms, f"{step.l0:.1f}", str(int(step.dead))]
        table.add_row(*row)
    return table


def _print_lines(progress: TrainingProgress) -> None:
    for name, step in progress.reports.items():
        terms = "  ".join(f"{term} {value.item():.4g}" for term, value in step.terms.items())
        print(
            f"step {progress.step}/{progress.steps}  {name}: loss {step.loss.item():.4f}  {terms}  "
            f"L0 {step.l0:.1f}  dead {int(step.dead)}  {progress.tokens_per_second:,.0f} tokens/s  "
            f"{progress.seconds_left:.0f} s left",
            flush=True,
        )


@contextmanager
def evaluation_display(
    doing: str = "evaluating", unit: str = "held-out sequences"
) -> Iterator[Any]:
    """A reporter for `evaluate_run` and its like: sequences done, a bar a crosscoder.

    Where there is no terminal to draw on, a line now and then.
    """
    if not console.is_terminal:
        yield _progress_lines(doing, unit)
        return
    bar = Progress(
        TextColumn(doing + " {task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, Any] = {}

    def report(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=total)
        bar.update(tasks[name], completed=done)

    with bar:
        yield report


def _progress_lines(doing: str, unit: str) -> Callable[[str, int, int], None]:
    """A reporter that prints a line when something begins, every PAUSE seconds, and at its end."""
    last: dict[str, float] = {}

    def report(name: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name in last and done < total and now - last[name] < PAUSE:
            return
        last[name] = now
        print(f"{doing} {name}: {done}/{total} {unit}".strip(), flush=True)

    return report


ROWS = (
    ("L0", "l0", "{:.1f}"),
    ("FVU, mean over hookpoints", "fvu", "{:.3f}"),
    ("FVU at the MLPs' inputs", "fvu_mlp_in", "{:.3f}"),
    ("CE recovered", "ce_recovered", "{:.3f}"),
    ("Dominant share", "dominant_share", "{:.3f}"),
    ("Interaction I, a token and block", "interaction", "{:.0f}"),
)


def results_table(runs: dict[str, Any]) -> Table:
    """Runs side by side, each figure with its 95% interval over held-out sequences."""
    table = Table(title="Held-out text, 95% intervals over sequences")
    table.add_column("")
    for name, run in runs.items():
        table.add_column(f"{name}\n({run['objective']})", justify="right")
    for scheme in next(iter(runs.values()))["phi"]:
        cells = [_phi_cell(run["phi"][scheme]) for run in runs.values()]
        table.add_row(f"Φ {scheme} (exact mid)", *cells)
    for label, key, style in ROWS:
        cells = [_cell(run, key, style) for run in runs.values()]
        table.add_row(label, *cells)
    table.add_row("Dead latents", *(f"{run['dead']:.1%}" for run in runs.values()))
    for owner in next(iter(runs.values())).get("diffing", {"counts": {}})["counts"]:
        counts = [str(run["diffing"]["counts"][owner]) for run in runs.values()]
        table.add_row(f"Latents, {owner}", *counts)
    return table


def _phi_cell(by_mid: dict[str, Any]) -> str:
    figure = by_mid.get("exact_mid")
    if figure is None:
        return "-"
    return f"{figure['mean']:.3f} [{figure['ci'][0]:.3f}, {figure['ci'][1]:.3f}]"


def _cell(run: dict[str, Any], key: str, style: str) -> str:
    if key not in run:
        return "-"
    low, high = run["intervals"][key]
    return f"{style.format(run[key])} [{style.format(low)}, {style.format(high)}]"
