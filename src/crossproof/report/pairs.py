"""What `crossproof measure` found, as plain values for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossproof.evaluation.contexts import Context
from crossproof.report.passages import Piece, pieces
from crossproof.report.runs import Run, Value
from crossproof.report.table import Cell, Row, cell, number

SHOWN = 6
ROWS = (
    ("I", "Interaction I", "every latent but the dominant one, by size"),
    ("J", "Additive form J", "zero for latents that a neuron adds up"),
    ("AND", "Gate times value", "latents meeting on the two paths of gated neurons"),
    ("Q", "Pair form Q", "the smaller of each two contributions"),
    ("led", "Neurons led by one latent", "share with one latent above 90%"),
)


@dataclass(frozen=True)
class PairPassage:
    """A pair of latents, its figures in words and its strongest contexts."""

    latents: tuple[int, int]
    figures: str
    contexts: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class MeasuredRuns:
    """The section's table and passages; runs are those of the page that were measured."""

    tokens: str
    rows: tuple[Row, ...]
    passages: dict[str, list[PairPassage]]


def measured_runs(measured: Mapping[str, Any] | None, runs: Sequence[Run]) -> MeasuredRuns | None:
    """The section's content, or None where nothing was measured."""
    if measured is None:
        return None
    found = [measured["runs"].get(run.name) for run in runs]
    if not any(found):
        return None
    passages = {
        run.name: [_passage(row) for row in figures["top_pairs"][:SHOWN]]
        for run, figures in zip(runs, found, strict=True)
        if figures is not None
    }
    tokens = next(figures["tokens"] for figures in found if figures is not None)
    rows = [
        Row(label, note, tuple(_cell(figures, key) for figures in found))
        for key, label, note in ROWS
        if any(figures is not None and key in figures["totals"] for figures in found)
    ]
    return MeasuredRuns(f"{tokens:,}", tuple(rows), passages)


def _cell(figures: Mapping[str, Any] | None, key: str) -> Cell:
    if figures is None or key not in figures["totals"]:
        return cell(None)
    entry = figures["totals"][key]
    return cell(Value(entry["mean"], *entry["ci"]))


def _passage(row: Mapping[str, Any]) -> PairPassage:
    block = max(row["by_block"], key=row["by_block"].get)
    forms = ", ".join(f"{form} {number(v)}" for form, v in row["per_coactive_token"].items())
    figures = (
        f"both active on {row['coactive']:,} tokens; there {forms}, true non-additivity "
        f"{number(row['second_difference'])}; most in block {block}"
    )
    contexts = [
        Context(tuple(c["tokens"]), tuple(c["activations"]), c["peak"]) for c in row["contexts"]
    ]
    largest = max((a for c in contexts for a in c.activations), default=0.0)
    h, k = row["latents"]
    return PairPassage((h, k), figures, tuple(tuple(pieces(c, largest)) for c in contexts))
