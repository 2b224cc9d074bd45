"""The figures of all runs side by side, as plain rows for the template."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crossproof.report.runs import MID_LABELS, SCHEME_LABELS, Run, Value, mids_of


@dataclass(frozen=True)
class Cell:
    """A figure as shown, and in full for machines."""

    text: str
    interval: str
    value: Value | None


@dataclass(frozen=True)
class Row:
    """One figure of every run."""

    label: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows under a heading."""

    title: str
    rows: tuple[Row, ...]


FIGURES = (
    ("fvu", "FVU, all hookpoints", "fraction of variance unexplained; lower is better"),
    ("fvu_mlp_in", "FVU at the MLP inputs", "rises if a penalty is met by shrinking"),
    ("ce_recovered", "CE recovered", "loss recovered, one hookpoint patched at a time"),
    ("kl_recovered", "KL recovered", "the same in KL divergence"),
    ("l0", "L0", "active latents a token"),
    ("dead", "Dead latents", "fraction never active on these sequences"),
)
INTERACTIONS = (
    ("dominant_share", "Dominant share", "largest contribution over all, by size"),
    ("interaction", "Interaction I", "summed over neurons, per token"),
    ("additive_interaction", "Additive interaction J", "summed over neurons, per token"),
    ("residual", "Residual R", "MLP error of the reconstruction, per token"),
)


def table(runs: Sequence[Run]) -> list[Group]:
    """Fidelities, reconstruction and interactions; figures that no run has are left out."""
    groups = [
        Group(f"Fidelity Φ, {MID_LABELS[mid]}", tuple(_fidelities(runs, mid)))
        for mid in mids_of(runs)
    ]
    groups.append(Group("Reconstruction", tuple(_figures(runs, FIGURES))))
    groups.append(Group("Interactions", tuple(_figures(runs, INTERACTIONS))))
    return [group for group in groups if group.rows]


def number(value: float) -> str:
    """Three decimals for small numbers, fewer for large ones; a dash if undefined."""
    if math.isnan(value):
        return "–"
    size = abs(value)
    digits = 3 if size < 10 else 2 if size < 100 else 1 if size < 10_000 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def cell(value: Value | None) -> Cell:
    """A figure with its interval; a dash where there is none."""
    if value is None:
        return Cell("–", "", None)
    if value.low is None or value.high is None:
        return Cell(number(value.mean), "", value)
    return Cell(number(value.mean), f"[{number(value.low)}, {number(value.high)}]", value)


def _fidelities(runs: Sequence[Run], mid: str) -> Iterator[Row]:
    for scheme, label in SCHEME_LABELS.items():
        values = [run.phi(scheme, mid) for run in runs]
        if any(values):
            yield Row(label[0].upper() + label[1:], scheme, tuple(cell(v) for v in values))


def _figures(runs: Sequence[Run], figures: Sequence[tuple[str, str, str]]) -> Iterator[Row]:
    for name, label, note in figures:
        values = [run.value(name) for run in runs]
        if any(values):
            yield Row(label, note, tuple(cell(v) for v in values))
