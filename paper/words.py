"""Pieces of Markdown, written from numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(estimate: Mapping[str, Any], digits: int = 3) -> str:
    """An estimate with its interval: `0.315 [0.311, 0.320]`."""
    low, high = estimate["ci"]
    return f"{number(estimate['mean'], digits)} [{number(low, digits)}, {number(high, digits)}]"


def number(value: float, digits: int = 3) -> str:
    """`digits` decimals; thousands without."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def size(setup: Mapping[str, Any]) -> str:
    """One sentence about how the numbers were made, from `Lab.setup`."""
    seeds = len(setup["seeds"])
    quick = " (--quick: too small for conclusions)" if setup["quick"] else ""
    over = "seeds and sequences" if seeds > 1 else "sequences (one seed)"
    return (
        f"Model {setup['model']}; {setup['n_latents']:,} latents, k = {setup['k']}, "
        f"{setup['steps']} steps of {setup['batch_tokens']:,} tokens, {seeds} "
        f"seed{'s' if seeds > 1 else ''}{quick}; {setup['sequences']} held-out sequences of "
        f"{setup['context']} tokens, the first {setup['skip']} passed over. In brackets: 95% "
        f"intervals, over {over}."
    )
