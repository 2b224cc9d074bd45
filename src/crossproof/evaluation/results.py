"""What `evaluate` returns, and results.json: the figures of the crosscoders of a run folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crossproof.activations.corpus import TextSlice
from crossproof.activations.massive import MassiveActivation, massive_table
from crossproof.crosscoder.diffing import DiffingFigures
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import LatentExample
from crossproof.evaluation.intervals import PartEstimate
from crossproof.evaluation.replaced import ReplacedLayers as ReplacedLayers
from crossproof.evaluation.replaced import replaced_table, unreplaced_note
from crossproof.evaluation.tally import MIDS
from crossproof.evaluation.views_note import views_note
from crossproof.extras import needed
from crossproof.result import ABSENT, Result
from crossproof.tables import Estimate, Row, Style, Table, Value, number, percent

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
SCHEME_LABELS = {
    "none": "all latents",
    "drop-random": "drop a random one",
    "drop-second": "drop the second",
    "drop-largest": "drop the largest",
    "keep-largest": "keep only the largest",
}
MID_LABELS = {
    "exact_mid": "exact resid_mid",
    "reconstructed_mid": "reconstructed resid_mid",
    "mean_rest": "mean rest",
}

KEPT = "Latents a neuron keeps"
"""The table of `KeepCurve`."""

Figures = Sequence[tuple[str, str, str, Style]]
"""Name in the result, label, note, and how it is written."""
RECONSTRUCTION: Figures = (
    ("fvu", "FVU, all hookpoints", "fraction of variance unexplained; lower is better", number),
    ("fvu_without_outliers", "FVU without outliers", "where no norm is massive", number),
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
    ("norm_interaction", "Norm's own, all", "denominator moved by all latents, likewise", number),
    ("norm_interaction_single", "Norm's own, one", "moved by one latent, mean, likewise", number),
)


@dataclass(frozen=True)
class BlockEstimate(Estimate):
    """A mean over the blocks where it is defined, its 95% interval, and each block's own figure."""

    mean: float
    ci: tuple[float, float] | None
    by_block: tuple[float, ...] = ()

    @classmethod
    def of(cls, figure: PartEstimate) -> BlockEstimate:
        """The same figure, its parts being blocks."""
        return cls(figure.mean, figure.ci, figure.parts)


Fidelities = dict[str, dict[str, BlockEstimate]]
"""Φ by scheme, then by what the MLP's output is added to (`MIDS`)."""


@dataclass(frozen=True)
class KeepCurve:
    """Φ (exact resid_mid) where every neuron keeps its m largest contributions."""

    sequences: int
    """How many of the evaluated sequences it was measured on."""
    kept: tuple[float, ...]
    """m; the last, all latents, as their mean number a token."""
    phi: tuple[BlockEstimate, ...]
    area: BlockEstimate
    """Mean of Φ over log2 m from 1 to all, by trapezoids: 1 where one latent a neuron is enough."""


@dataclass(frozen=True)
class ShareHistogram:
    """How often each dominant share occurs."""

    edges: tuple[float, ...]
    by_block: tuple[tuple[float, ...], ...]
    """Of each block, the fraction of (token, neuron) pairs in each bin."""


@dataclass(frozen=True, repr=False)
class EvaluationResult(Result):
    """The figures of one crosscoder on held-out text (docs/results-format.md); None: not measured.

    Units: losses in nats a scored token; interactions and residual as sums over neurons, means
    over tokens and blocks.
    """

    objective: str | None = field(default=None, metadata=ABSENT)
    """What it was trained for, in words."""
    sequences: int = 0
    tokens: int = 0
    l0: float | None = field(default=None, metadata=ABSENT)
    fvu: float | None = field(default=None, metadata=ABSENT)
    fvu_without_outliers: float | None = field(default=None, metadata=ABSENT)
    """FVU without the positions that are massive at any hookpoint; absent where there are none."""
    fvu_mlp_in: float | None = field(default=None, metadata=ABSENT)
    dominant_share: float | None = field(default=None, metadata=ABSENT)
    interaction: float | None = field(default=None, metadata=ABSENT)
    residual: float | None = field(default=None, metadata=ABSENT)
    additive_interaction: float | None = field(default=None, metadata=ABSENT)
    norm_interaction: float | None = field(default=None, metadata=ABSENT)
    """What the denominator of an MLP's norm does when all latents leave the stream (T7)."""
    norm_interaction_single: float | None = field(default=None, metadata=ABSENT)
    """The same for single latents, their mean."""
    ce_recovered: float | None = field(default=None, metadata=ABSENT)
    kl_recovered: float | None = field(default=None, metadata=ABSENT)
    dead: float | None = field(default=None, metadata=ABSENT)
    model_loss: float | None = field(default=None, metadata=ABSENT)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    by_hookpoint: dict[str, dict[str, float]] = field(default_factory=dict)
    by_block: dict[str, tuple[float, ...]] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    """The blocks whose MLP reads the crosscoder."""
    views: dict[str, str] = field(default_factory=dict, metadata=ABSENT)
    """By block: where its MLP is read, at its input or in the stream before."""
    dictionaries: dict[str, int] = field(default_factory=dict, metadata=ABSENT)
    """Of several dictionaries side by side, where the latents of each begin."""
    unread: str | None = field(default=None, metadata=ABSENT)
    """Why no MLP reads it, where none does: there are no interactions and no Φ."""
    replaced: ReplacedLayers | None = field(default=None, metadata=ABSENT)
    """Of transcoders: the model with the layers replaced whose outputs they write."""
    unreplaced: str | None = field(default=None, metadata=ABSENT)
    """Why they cannot be replaced in one pass, where they cannot."""
    phi: Fidelities = field(default_factory=dict)
    phi_mlp_removed: Fidelities | None = field(default=None, metadata=ABSENT)
    keep_curve: KeepCurve | None = field(default=None, metadata=ABSENT)
    share_histogram: ShareHistogram | None = field(default=None, metadata=ABSENT)
    massive: tuple[MassiveActivation, ...] = field(default=(), metadata=ABSENT)
    """Massive activations in the first sequences."""
    diffing: DiffingFigures | None = field(default=None, metadata=ABSENT)
    latents: tuple[LatentExample, ...] | None = field(default=None, metadata=ABSENT)
    """A few latents, chosen by rule, with their strongest contexts."""
    training: dict[str, Any] | None = field(default=None, metadata=ABSENT)

    def figure(self, name: str) -> Estimate | None:
        """A figure of the whole crosscoder; None where it is not measured or not defined."""
        mean = getattr(self, name)
        if mean is None or not math.isfinite(mean):
            return None
        ends = self.intervals.get(name)
        return Estimate(mean, ends if ends and all(map(math.isfinite, ends)) else None)

    def fidelity(self, scheme: str, mid: str = "exact_mid") -> BlockEstimate | None:
        """Φ of an ablation, zero reference: latents removed; None as in `figure`."""
        figure = self.phi.get(scheme, {}).get(mid)
        return figure if figure is not None and figure.defined else None

    @property
    def whole_mid(self) -> str:
        """The mid at which Φ of all latents says what they explain.

        mean_rest for dictionaries upstream of their MLPs: with the exact rest it is 1 whatever they
        say.
        """
        return "mean_rest" if "mean_rest" in self.phi.get("none", {}) else "exact_mid"

    def tables(self) -> Sequence[Table]:
        """Fidelities, reconstruction and interactions; massive activations."""
        runs = {self.objective or "figure": self}
        return [*result_tables(runs), *massive_tables(runs)]

    def to_frame(self) -> pandas.DataFrame:
        """All figures, one below the other; CrossproofError if pandas is not installed."""
        return stacked(result_tables({self.objective or "figure": self}))


@dataclass(frozen=True, repr=False)
class RunEvaluation(Result):
    """results.json: the crosscoders of a run folder on the same held-out sequences."""

    schema: int = SCHEMA
    model: str = "a language model"
    model_hash: str = ""
    seed: int | None = field(default=None, metadata=ABSENT)
    """Of the training, like the next three; absent for imported crosscoders."""
    steps: int | None = field(default=None, metadata=ABSENT)
    batch_tokens: int | None = field(default=None, metadata=ABSENT)
    tokens: int | None = field(default=None, metadata=ABSENT)
    seconds: float | None = field(default=None, metadata=ABSENT)
    """Wall time of the whole command."""
    evaluated_on: TextSlice | None = field(default=None, metadata=ABSENT)
    runs: dict[str, EvaluationResult] = field(default_factory=dict)

    def tables(self) -> Sequence[Table]:
        """Figures of all crosscoders side by side; massive activations."""
        return [*result_tables(self.runs), *massive_tables(self.runs)]

    def to_frame(self) -> pandas.DataFrame:
        """All figures, one below the other; CrossproofError if pandas is not installed."""
        return stacked(result_tables(self.runs))

    @classmethod
    def check(cls, content: Mapping[str, Any]) -> None:
        """Raises CrossproofError for another schema, and if there are no crosscoders."""
        if content.get("schema", SCHEMA) != SCHEMA:
            raise CrossproofError(
                f"results.json has schema {content['schema']}, and this version reads schema "
                f"{SCHEMA}: use the version of crossproof that wrote it."
            )
        if not content.get("runs"):
            raise CrossproofError("results.json holds no runs: evaluate at least one crosscoder.")


def result_tables(runs: Mapping[str, EvaluationResult]) -> list[Table]:
    """Crosscoders side by side, each figure with its interval; rows that none has are left out."""
    columns = tuple(runs)
    results = list(runs.values())
    tables = [
        Table(f"Fidelity Φ, {label}", columns, tuple(_fidelities(results, mid)))
        for mid, label in MID_LABELS.items()
    ]
    tables.append(Table(KEPT, columns, tuple(_kept(results))))
    rows = tuple(_rows(results, RECONSTRUCTION))
    note = unreplaced_note({name: run.unreplaced for name, run in runs.items()})
    tables.append(Table("Reconstruction", columns, rows, note=note))
    note = views_note({name: run.unread or run.views for name, run in runs.items()})
    tables.append(replaced_table(columns, [run.replaced for run in results]))
    tables.append(Table("Interactions", columns, tuple(_rows(results, INTERACTIONS)), note=note))
    tables.append(Table("Latents by model", columns, tuple(_owners(results))))
    return [table for table in tables if table.rows]


def massive_tables(runs: Mapping[str, EvaluationResult]) -> list[Table]:
    """What is massive on the sequences, if anything; crosscoders of a run share hookpoints."""
    found = next((run.massive for run in runs.values() if run.massive), ())
    return [massive_table(found)] if found else []


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


def _kept(runs: Sequence[EvaluationResult]) -> Iterator[Row]:
    """Φ by the number of latents kept, and the curve's area."""
    curves = [run.keep_curve for run in runs]
    counts = sorted({m for curve in curves if curve for m in curve.kept[:-1]})
    for count in counts:
        points = [dict(zip(c.kept[:-1], c.phi, strict=False)) if c else {} for c in curves]
        values = tuple(point.get(count) for point in points)
        yield Row(f"{count:g} largest", values, "Φ, exact resid_mid")
    if counts:
        yield Row("All", tuple(c.phi[-1] if c else None for c in curves), "the same sequences")
        yield Row("Area", tuple(c.area if c else None for c in curves), "mean of Φ over log₂ m")


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
