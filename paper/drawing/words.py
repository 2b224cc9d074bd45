"""Pieces of Markdown, written from numbers: crossproof's tables in the paper's styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crossproof.tables import Estimate, Row, Style, Table, cell, count, fixed, minus

QUICK = " (--quick: too small for conclusions)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column holds the rows' labels."""
    made = tuple(Row(label, tuple(cells)) for label, *cells in rows)
    return Table("", tuple(head[1:]), made, corner=head[0]).to_markdown()


def decimals(digits: int) -> Style:
    """`digits` decimals; from 100 on none."""
    return lambda value: count(value) if abs(value) >= 100 else fixed(digits)(value)


def number(value: float, digits: int = 3) -> str:
    """A number by `decimals`."""
    return decimals(digits)(value)


def share(value: float) -> str:
    """A whole percentage: `58%`."""
    return minus(f"{value:.0%}")


def change(value: float) -> str:
    """A relative change, its sign shown: `+58%`."""
    return minus(f"{value:+.0%}")


def written(mean: float | None, ci: Sequence[float] | None, style: Style) -> str:
    """A figure with its interval, or what of them there is: `+58% [+40%, +76%]`."""
    low_high = None if ci is None else (float(ci[0]), float(ci[1]))
    return str(cell(Estimate(mean, low_high), style))


def shown(estimate: Mapping[str, Any], style: Style | int = 3) -> str:
    """An estimate with its interval, `0.315 [0.311, 0.320]`; an int is a number of decimals."""
    chosen = decimals(style) if isinstance(style, int) else style
    return written(estimate["mean"], estimate["ci"], chosen)


def seeds_of(setup: Mapping[str, Any]) -> str:
    """`3 seeds`, marked if the size is too small for conclusions."""
    seeds = len(setup["seeds"])
    return f"{seeds} seed{'s' if seeds > 1 else ''}{QUICK if setup['quick'] else ''}"


def interval_over(setup: Mapping[str, Any]) -> str:
    """What the 95% intervals are over."""
    return "seeds and sequences" if len(setup["seeds"]) > 1 else "sequences (one seed)"


def size(setup: Mapping[str, Any]) -> str:
    """One sentence about how the numbers were made, from `Experiment.setup`."""
    return (
        f"Model {setup['model']}; {setup['n_latents']:,} latents, k = {setup['k']}, "
        f"{setup['steps']} steps of {setup['batch_tokens']:,} tokens, {seeds_of(setup)}; "
        f"{setup['sequences']} held-out sequences of {setup['context']} tokens, the first "
        f"{setup['skip']} passed over. In brackets: 95% intervals, over {interval_over(setup)}."
    )
