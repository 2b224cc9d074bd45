"""What attribution says of one crosscoder, as typed values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from crossproof.proof.bounds.outputs import Baselines
from crossproof.tables import Estimate

StageKind = Literal["measured", "propagates", "code"]
"""measured: read off the model's activations. propagates: bounds what the ball so far allows.
code: a function of latents, dictionary and weights alone."""


@dataclass(frozen=True)
class LossFigures:
    """Cross-entropies in nats."""

    true: Estimate
    """The model's own."""
    claimed: Estimate
    """Of the decoded last hookpoint."""


@dataclass(frozen=True)
class StageFigures:
    """One summand of the radius, over all tokens."""

    stage: str
    """Such as "blocks.0 interaction"."""
    block: int | None
    part: str
    kind: StageKind
    adds: Estimate
    radius: float
    """Mean radius behind it."""
    loss_bound: Estimate
    """Nats, as if nothing came after it."""
    first_vacuous_here: float
    """Share of tokens whose bound becomes vacuous at this stage."""

    @property
    def short(self) -> str:
        """`blocks.3 MLP moves` as `3 MLP moves`, for narrow tables and axes."""
        return self.stage.removeprefix("blocks.")


@dataclass(frozen=True)
class ChainFigures:
    """One chain of bounds: how the MLP is simplified, and whether attention is bounded."""

    loss_bound: Estimate
    vacuous: bool
    mean_first_vacuous: str | None
    """The first stage at which the mean bound says nothing."""
    vacuous_tokens: Estimate
    vacuous_by_claimed_loss: float
    never_vacuous: float
    stages: list[StageFigures]
    truth: dict[str, list[Estimate]]
    """What `interaction` and `norm_defect` bound, a block each."""
    violations: int
    """Tokens whose own loss is above the bound: anything but 0 is a mistake."""

    @property
    def radius(self) -> float:
        """Mean radius at the end."""
        return self.stages[-1].radius

    @property
    def growth(self) -> float | None:
        """The share of the radius that the ball's own spreading adds."""
        whole = sum(mean_of(stage.adds) for stage in self.stages)
        moved = sum(mean_of(stage.adds) for stage in self.stages if stage.kind == "propagates")
        return moved / whole if whole > 0 else None


@dataclass(frozen=True)
class ReplacementFigures:
    """What a simplified last MLP does to predictions."""

    certified: Estimate
    ceiling: Estimate | None
    """Certified if every neuron's bound were the truth; None where a bound may well pass that."""
    unchanged: Estimate
    """The truth."""
    terms: float
    """(Neuron, latent) pairs that pass through σ at a token: the length of the proof."""
    median_bound: float
    median_error: float
    median_excess: float | None
    """None: at most tokens the norm's scale alone can undo the margin."""
    violations: int


@dataclass(frozen=True)
class NeuronCost:
    """What a neuron is charged for, a token."""

    block: int
    neuron: int
    per_token: float

    def __str__(self) -> str:
        return f"{self.block}.{self.neuron}"


@dataclass(frozen=True)
class PairCost:
    """What a pair of latents is charged for, a token, and where."""

    latents: tuple[int, int]
    coactive: int
    """Tokens at which both are active."""
    per_token: float
    by_block: dict[str, float]
    neurons: list[NeuronCost]

    @property
    def block(self) -> str:
        """The block that charges most."""
        return max(self.by_block, key=lambda block: self.by_block[block])


@dataclass(frozen=True)
class InteractionCosts:
    """The costliest pairs and neurons, largest first, in lengths of the residual stream."""

    pairs: list[PairCost]
    neurons: list[NeuronCost]
    per_token: float = 0.0
    """What all neurons are charged."""


@dataclass(frozen=True)
class AttributedRun:
    """One crosscoder; the fields with a default are empty if only the last block was looked at."""

    objective: str
    baselines: Baselines
    attention_unbounded_because: str
    """Why there is no chain with bounded attention; empty if there is."""
    costs: InteractionCosts
    last_block: dict[str, dict[str, ReplacementFigures]]
    """By what the simplified MLP is compared with, and by the simplified MLP."""
    tokens: int | None = None
    sequences: int | None = None
    loss: LossFigures | None = None
    true_radius: list[float] = field(default_factory=list)
    """‖r - r̂‖ at the first hookpoint and at every block's resid_mid and resid_post."""
    restarted: dict[str, list[Estimate]] = field(default_factory=dict)
    """Sizes of propagating steps if the ball before them had the true radius, a block each."""
    chains: dict[str, ChainFigures] = field(default_factory=dict)

    @property
    def vacuous_from(self) -> float:
        """Nats from which a bound on the mean loss says nothing."""
        return min(self.baselines.log_classes, self.baselines.unigram_entropy)

    def restarted_at(self, stage: StageFigures, truth: bool = False) -> float | None:
        """A propagating step's size, or the true movement, if its ball had the true radius."""
        sizes = self.restarted.get(f"{stage.part} true" if truth else stage.part)
        return None if sizes is None or stage.block is None else sizes[stage.block].mean


def mean_of(figure: Estimate) -> float:
    """The mean of a figure that every token has."""
    assert figure.mean is not None
    return figure.mean
