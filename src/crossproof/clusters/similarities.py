"""How alike two latents are: by interaction, and by the baselines, all behind one interface.

Every similarity is symmetric with a zero diagonal, and every one is clustered, judged and compared
with random clusters in exactly the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.clusters.settings import FORMS, known
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.matrix import Form, Interactions
from crossproof.interactions.second_differences import second_difference_sums
from crossproof.interactions.stream import AnyViews, experts_by_mlps

Square = Float[Tensor, "R R"]
LEAST_TOGETHER = 5
"""Tokens of co-activation below which what a pair has beyond magnitudes is noise, taken to be 0."""
MOST_WEIGHT = 100.0
"""A pair's weight in the fit of magnitudes is its tokens of co-activation, up to this many."""
ROUNDS = 100


@dataclass(frozen=True, eq=False)
class PairValues:
    """A symmetric quantity of M pairs of latents; of all other pairs it is 0."""

    pairs: Int[Tensor, "M 2"]
    values: Float[Tensor, " M"] | Int[Tensor, " M"]

    def __add__(self, other: PairValues) -> PairValues:
        """The sum; both must be about the same pairs in the same order."""
        assert torch.equal(self.pairs, other.pairs)
        return PairValues(self.pairs, self.values + other.values)

    def among(self, latents: Int[Tensor, " R"], n_latents: int) -> Square:
        """The matrix between the chosen latents, without one of all H."""
        row = torch.full((n_latents,), -1, dtype=torch.int64)
        row[latents] = torch.arange(len(latents))
        h, k = row[self.pairs.to(torch.int64)].unbind(1)
        both = (h >= 0) & (k >= 0)
        out = torch.zeros(len(latents), len(latents), dtype=torch.float64)
        out[h[both], k[both]] = out[k[both], h[both]] = self.values[both].double()
        return out


@dataclass(frozen=True, eq=False)
class Evidence:
    """What similarities are made of."""

    interactions: Interactions
    crosscoder: Crosscoder
    second_differences: PairValues | None = None
    """Second differences sum_n ‖o_n‖ |δ²_n| of pairs, summed over tokens and blocks. Needed by the
    similarities of `NEED_DIFFERENCES` only."""

    def interaction(self, form: Form, block: int | None = None) -> PairValues:
        """The form summed over tokens and both directions; of one block, or of all."""
        sums = self.interactions.pair_sums(form, normalise="sum", block=block)
        return PairValues(self.interactions.pairs, sums)


def similarity(name: str, evidence: Evidence, latents: Int[Tensor, " R"]) -> Square:
    """The similarity `name` between the chosen latents, float64, diagonal zero.

    - I, J, Q, AND: interaction summed over tokens, neurons and blocks, both directions added up
    - second-differences: the true non-additivity that Q bounds
    - coactivation: tokens at which both are active; phi: the correlation of the two events, 0 where
      one of them is constant
    - NAME-normalised: S_ij / √(r_i r_j), r the row sums, so that large latents do not dominate
    - FORM-given-coactivation: the form per token at which both are active
    - FORM-from-magnitudes, FORM-beyond-magnitudes: what co-activation and one magnitude a latent
      predict, normalised, and the logarithm of how much more there is
    - FORM-phi: √(FORM-normalised · phi), 0 where phi is negative
    - decoder-cosine: of decoder vectors at all hookpoints; decoder-cosine-mlp-in: at MLP inputs; 0
      where a vector is
    - NAME@B: of interactions in block B alone

    Raises CrossproofError for an unknown name, a form that this kind of MLP does not have, a block
    that was not measured, and second differences that were not measured.
    """
    base, block = known(name)
    first, _, made = base.partition("-")
    form = next((form for form in FORMS if form == first), None)
    if form is not None:
        pairs = evidence.interaction(form, block)
        values = pairs.among(latents, evidence.interactions.n_latents)
        return FROM_FORM[made](values, evidence, latents).fill_diagonal_(0)
    plain = base.removesuffix("-normalised")
    values = WITHOUT_FORM[plain](evidence, latents).fill_diagonal_(0)
    return values if plain == base else normalised(values)


def normalised(values: Square) -> Square:
    """S_ij / √(r_i r_j) with r the row sums off the diagonal; 0 where a row is empty."""
    values = values.clone().fill_diagonal_(0)
    rows = values.sum(1)
    below = (rows[:, None] * rows).sqrt()
    return torch.where(below > 0, values / below, 0)


def from_magnitudes(values: Square, together: Square) -> Square:
    """c_hk m_h m_k for all pairs that were ever active together, 0 for others.

    The model is S_hk = c_hk · m_h · m_k · e^{r_hk}: c the tokens at which both are active, one
    magnitude m a latent. Without r it knows the co-activation and nothing about the pair; r is what
    the pair's vectors, and the neurons they meet in, add.
    """
    magnitude = log_magnitudes(values, together)
    predicted = together * torch.exp(magnitude[:, None] + magnitude)
    return torch.where(together > 0, predicted, 0).fill_diagonal_(0)


def beyond_magnitudes(values: Square, together: Square) -> Square:
    """r_hk = log S_hk - log(c_hk m_h m_k) where it is positive and the pair is not rare; else 0."""
    kept = _usable(values, together)
    predicted = from_magnitudes(values, together)
    ratio = torch.where(kept, values / predicted.clamp_min(1e-300), 1.0)
    return ratio.log().clamp_min(0)


def log_magnitudes(values: Square, together: Square) -> Float[Tensor, " R"]:
    """log m by weighted least squares over pairs that are not rare; 0 for latents without any."""
    kept = _usable(values, together)
    weights = torch.where(kept, together.clamp_max(MOST_WEIGHT), 0)
    rates = torch.where(kept, (values / together.clamp_min(1)).clamp_min(1e-300).log(), 0)
    below = weights.sum(1)
    magnitudes = torch.zeros(len(values), dtype=torch.float64)
    for _ in range(ROUNDS):  # half of each Jacobi step: whole ones may oscillate
        wanted = (weights * (rates - magnitudes)).sum(1) / below.clamp_min(1e-300)
        magnitudes = torch.where(below > 0, (magnitudes + wanted) / 2, 0)
    return magnitudes


def second_differences(
    views: AnyViews,
    latents: SparseLatents,
    pairs: Int[Tensor, "M 2"],
    progress: Callable[[int, int], None] | None = None,
) -> PairValues:
    """Σ over tokens and blocks of sum_n ‖o_n‖ |δ²_n| at each token's other latents."""
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for done, (experts, _) in enumerate(experts_by_mlps(latents, views).values(), 1):
        for seen in (each.view for each in experts):
            here = seen.dictionary, seen.latents
            sums += second_difference_sums(*here, pairs, "others", seen.weight).neurons.cpu()
        if progress is not None:
            progress(done, len(views))
    return PairValues(pairs, sums)


def _usable(values: Square, together: Square) -> Tensor:
    kept: Tensor = (values > 0) & (together >= LEAST_TOGETHER)
    return kept.fill_diagonal_(False)


def _differences(evidence: Evidence, latents: Int[Tensor, " R"]) -> Square:
    if evidence.second_differences is None:
        raise CrossproofError(
            "Second differences were not measured: give `Evidence` what "
            "`crossproof.clusters.second_differences` returns."
        )
    return evidence.second_differences.among(latents, evidence.interactions.n_latents)


def _together(evidence: Evidence, latents: Int[Tensor, " R"]) -> Square:
    sums = evidence.interactions
    return PairValues(sums.pairs, sums.coactive).among(latents, sums.n_latents)


def _phi(evidence: Evidence, latents: Int[Tensor, " R"]) -> Square:
    """Pearson's correlation of the events "active" over measured tokens; 0 if one is constant."""
    tokens = evidence.interactions.tokens
    active = evidence.interactions.active[latents].double()
    both = _together(evidence, latents)
    spread = (active * (tokens - active)).sqrt()
    below = spread[:, None] * spread
    return torch.where(below > 0, (tokens * both - active[:, None] * active) / below, 0)


def _cosine(evidence: Evidence, latents: Int[Tensor, " R"], at_inputs: bool = False) -> Square:
    """Of decoder vectors, each hookpoint scaled to mean norm one over the dictionary: hookpoints
    weigh alike, whether or not the crosscoder's scale is folded into its weights."""
    weights = evidence.crosscoder.whole_decoder().detach().double().cpu()
    vectors = weights[latents] / weights.norm(dim=2).mean(0).clamp_min(1e-300)[:, None]
    if at_inputs:
        hookpoints = evidence.crosscoder.hookpoints
        inputs = [hookpoints.blocks[block].mlp_in for block in hookpoints.mlp_blocks]
        if not inputs:
            raise CrossproofError(
                "decoder-cosine-mlp-in needs a dictionary that decodes at an MLP's input, and this "
                "one does at none: choose decoder-cosine."
            )
        vectors = vectors[:, [hookpoint for hookpoint in inputs if hookpoint is not None]]
    unit = torch.nn.functional.normalize(vectors.flatten(1), eps=1e-300)
    return unit @ unit.T


FROM_FORM: dict[str, Callable[[Square, Evidence, Tensor], Square]] = {
    "": lambda values, _e, _h: values,
    "normalised": lambda values, _e, _h: normalised(values),
    "given-coactivation": lambda values, e, h: values / _together(e, h).clamp_min(1),
    "from-magnitudes": lambda values, e, h: normalised(from_magnitudes(values, _together(e, h))),
    "beyond-magnitudes": lambda values, e, h: beyond_magnitudes(values, _together(e, h)),
    "phi": lambda values, e, h: (normalised(values) * _phi(e, h).clamp_min(0)).sqrt(),
}
"""What is made of a form's sums between the chosen latents."""
WITHOUT_FORM: dict[str, Callable[[Evidence, Tensor], Square]] = {
    "second-differences": _differences,
    "coactivation": _together,
    "phi": _phi,
    "decoder-cosine": _cosine,
    "decoder-cosine-mlp-in": lambda e, h: _cosine(e, h, at_inputs=True),
}
