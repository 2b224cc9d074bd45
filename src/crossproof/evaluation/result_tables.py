"""The rows that show evaluations, the same on a terminal, on a page and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from crossproof.evaluation.tally import MIDS
from crossproof.extras import needed
from crossproof.tables import Row, Style, Table, Value, number, percent

if TYPE_CHECKING:
    import pandas

    from crossproof.evaluation.results import EvaluationResult

SCHEME_LABELS = {
    "none": "all latents",
    "drop-random": "drop a random one",
    "drop-second": "drop the second",
    "drop-largest": "drop the largest",
    "keep-largest": "keep only the largest",
}
MID_LABELS = {"exact_mid": "exact resid_mid", "reconstructed_mid": "reconstructed resid_mid"}

Figures = Sequence[tuple[str, str, str, Style]]
"""Name in the result, label, note, and how it is written."""
RECONSTRUCTION: Figures = (
    ("fvu", "FVU, all hookpoints", "fraction of variance unexplained; lower is better", number),
    ("fvu_mlp_in", "FVU at the MLP inputs", "rises if a penalty is met by shrinking", number),
    ("ce_recovered", "CE recovered", "loss recovered, one hookpoint patched at a time", number),
    ("kl_recovered", "KL recovered", "the same in KL divergence", number),
    ("l0", "L0", "active latents a token", number),
    ("dead", "Dead latents", "never active on these sequences", percent),
)
INTERACTIONS: Figures = (
    ("dominant_share", "Dominant share", "largest contribution over all, by size", number),
    ("interaction", "Interaction I", "summed over neurons, per token and block", number),
    ("additive_interaction", "Additive interaction J", "summed over neurons, likewise", number),
    ("residual", "Residual R", "MLP error of the reconstruction, likewise", number),
)


def result_tables(runs: Mapping[str, EvaluationResult]) -> list[Table]:
    """Crosscoders side by side, each figure with its interval; rows that none has are left out."""
    columns = tuple(runs)
    results = list(runs.values())
    tables = [
        Table(f"Fidelity Φ, {label}", columns, tuple(_fidelities(results, mid)))
        for mid, label in MID_LABELS.items()
    ]
    tables.append(Table("Reconstruction", columns, tuple(_rows(results, RECONSTRUCTION))))
    tables.append(Table("Interactions", columns, tuple(_rows(results, INTERACTIONS))))
    tables.append(Table("Latents by model", columns, tuple(_owners(results))))
    return [table for table in tables if table.rows]


def stacked(tables: Sequence[Table]) -> pandas.DataFrame:
    """Tables of the same columns as one data frame, their titles as the outer index.

    Raises CrossproofError if pandas is not installed.
    """
    pandas = needed("pandas", "pandas", "data frames")
    return pandas.concat({table.title: table.to_frame() for table in tables})


def mids_of(runs: Sequence[EvaluationResult]) -> list[str]:
    """What MLP outputs were added to in any of them."""
    return [mid for mid in MIDS if any(run.fidelity("none", mid) for run in runs)]


def _fidelities(runs: Sequence[EvaluationResult], mid: str) -> Iterator[Row]:
    for scheme, label in SCHEME_LABELS.items():
        values = tuple(run.fidelity(scheme, mid) for run in runs)
        if any(value is not None for value in values):
            yield Row(label[0].upper() + label[1:], values, scheme)


def _rows(runs: Sequence[EvaluationResult], figures: Figures) -> Iterator[Row]:
    for name, label, note, style in figures:
        values = tuple(run.figure(name) for run in runs)
        if any(value is not None for value in values):
            yield Row(label, values, note, style)


def _owners(runs: Sequence[EvaluationResult]) -> Iterator[Row]:
    """How many latents belong to which of two models."""
    names = dict.fromkeys(name for run in runs if run.diffing for name in run.diffing.counts)
    for name in names:
        values: list[Value] = [run.diffing.counts[name] if run.diffing else None for run in runs]
        yield Row(name[0].upper() + name[1:], tuple(values), "latents, by relative decoder norm")
