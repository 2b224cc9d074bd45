"""What `evaluate` returns, and results.json: the figures of the crosscoders of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.diffing import DiffingFigures
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import LatentExample
from crossproof.evaluation.intervals import PartEstimate
from crossproof.evaluation.result_tables import result_tables, stacked
from crossproof.result import ABSENT, Result
from crossproof.tables import Estimate, Table

if TYPE_CHECKING:
    import pandas

SCHEMA = 1


@dataclass(frozen=True)
class BlockEstimate(Estimate):
    """A mean over blocks with its 95% interval over sequences, and each block's own figure."""

    mean: float
    ci: tuple[float, float]
    by_block: tuple[float, ...] = ()

    @classmethod
    def of(cls, figure: PartEstimate) -> BlockEstimate:
        """The same figure, its parts being blocks."""
        return cls(figure.mean, figure.ci, figure.parts)


Fidelities = dict[str, dict[str, BlockEstimate]]
"""Φ by scheme, then by what the MLP's output is added to (`MIDS`)."""


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
    fvu_mlp_in: float | None = field(default=None, metadata=ABSENT)
    dominant_share: float | None = field(default=None, metadata=ABSENT)
    interaction: float | None = field(default=None, metadata=ABSENT)
    residual: float | None = field(default=None, metadata=ABSENT)
    additive_interaction: float | None = field(default=None, metadata=ABSENT)
    ce_recovered: float | None = field(default=None, metadata=ABSENT)
    kl_recovered: float | None = field(default=None, metadata=ABSENT)
    dead: float | None = field(default=None, metadata=ABSENT)
    model_loss: float | None = field(default=None, metadata=ABSENT)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    by_hookpoint: dict[str, dict[str, float]] = field(default_factory=dict)
    by_block: dict[str, tuple[float, ...]] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    """The blocks whose MLP input the crosscoder reads."""
    phi: Fidelities = field(default_factory=dict)
    phi_mlp_removed: Fidelities | None = field(default=None, metadata=ABSENT)
    share_histogram: ShareHistogram | None = field(default=None, metadata=ABSENT)
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

    def tables(self) -> Sequence[Table]:
        """Fidelities, reconstruction and interactions."""
        return result_tables({self.objective or "figure": self})

    def to_frame(self) -> pandas.DataFrame:
        """All tables, one below the other; CrossproofError if pandas is not installed."""
        return stacked(self.tables())


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
        """Fidelities, reconstruction and interactions of all crosscoders side by side."""
        return result_tables(self.runs)

    def to_frame(self) -> pandas.DataFrame:
        """All tables, one below the other; CrossproofError if pandas is not installed."""
        return stacked(self.tables())

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
