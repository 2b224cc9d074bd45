"""What `evaluate` returns, and results.json: the figures of the crosscoders of a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.diffing import DiffingFigures
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import LatentExample
from crossproof.evaluation.intervals import PartEstimate
from crossproof.evaluation.result_tables import result_tables
from crossproof.result import Result, absent
from crossproof.tables import Estimate, Table

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

    objective: str | None = absent()
    """What it was trained for, in words."""
    sequences: int = 0
    tokens: int = 0
    l0: float | None = absent()
    fvu: float | None = absent()
    fvu_mlp_in: float | None = absent()
    dominant_share: float | None = absent()
    interaction: float | None = absent()
    residual: float | None = absent()
    additive_interaction: float | None = absent()
    ce_recovered: float | None = absent()
    kl_recovered: float | None = absent()
    dead: float | None = absent()
    model_loss: float | None = absent()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    by_hookpoint: dict[str, dict[str, float]] = field(default_factory=dict)
    by_block: dict[str, tuple[float, ...]] = field(default_factory=dict)
    blocks: tuple[int, ...] = ()
    """The blocks whose MLP input the crosscoder reads."""
    phi: Fidelities = field(default_factory=dict)
    phi_mlp_removed: Fidelities | None = absent()
    share_histogram: ShareHistogram | None = absent()
    diffing: DiffingFigures | None = absent()
    latents: tuple[LatentExample, ...] | None = absent()
    """A few latents, chosen by rule, with their strongest contexts."""
    training: dict[str, Any] | None = absent()

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


@dataclass(frozen=True, repr=False)
class RunEvaluation(Result):
    """results.json: the crosscoders of a run folder on the same held-out sequences."""

    schema: int = SCHEMA
    model: str = "a language model"
    model_hash: str = ""
    seed: int | None = absent()
    """Of the training, like the next three; absent for imported crosscoders."""
    steps: int | None = absent()
    batch_tokens: int | None = absent()
    tokens: int | None = absent()
    seconds: float | None = absent()
    """Wall time of the whole command."""
    evaluated_on: TextSlice | None = absent()
    runs: dict[str, EvaluationResult] = field(default_factory=dict)

    def tables(self) -> Sequence[Table]:
        """Fidelities, reconstruction and interactions of all crosscoders side by side."""
        return result_tables(self.runs)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The content of results.json.

        Raises CrossproofError for another schema, and if it holds no crosscoders.
        """
        if content.get("schema", SCHEMA) != SCHEMA:
            raise CrossproofError(
                f"results.json has schema {content['schema']}, and this version reads schema "
                f"{SCHEMA}: use the version of crossproof that wrote it."
            )
        if not content.get("runs"):
            raise CrossproofError("results.json holds no runs: evaluate at least one crosscoder.")
        return super().from_json(content)
