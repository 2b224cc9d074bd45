"""Detectors on pairs of latents: which meet, and how strongly, against what trusted texts show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.auditing.detectors.vectors import fit_gaussian
from crossproof.auditing.readings import PairWeights, Pooling, TextReading

Measure = Literal["I", "shapley", "coactivation"]
"""What weighs a pair at a token: its interaction I; the Shapley–Taylor index of the token's
strongest latents; or 1, which knows that the two are active together and nothing of the MLPs."""

_MIX = 0x9E3779B97F4A7C15 - 2**64
"""An odd number without pattern: multiplying by it spreads keys over the high bits."""


def pair_weights(reading: TextReading, measure: Measure) -> PairWeights:
    """The pairs of every token with the measure's weights."""
    if measure == "shapley":
        return reading.shapley
    pairs = reading.interactions
    return pairs if measure == "I" else replace(pairs, weight=torch.ones_like(pairs.weight))


@dataclass
class PairSurprise:
    """Pairs rarely seen together in trusted text, weighed by how strongly they interact.

    A token's score is Σ weight · log((M + 1) / (c + 1)) over its pairs, c being at how many of M
    trusted tokens the pair was there.
    """

    measure: Measure = "I"
    pooling: Pooling = "max"

    def fit(self, trusted: Sequence[TextReading]) -> PairSurprise:
        keys = torch.cat([pair_weights(r, self.measure).key for r in trusted])
        self.keys_, self.counts_ = keys.unique(return_counts=True)
        self.tokens_ = sum(len(reading.token_ids) for reading in trusted)
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        pairs = pair_weights(reading, self.measure)
        seen = counted(pairs.key, self.keys_, self.counts_)
        surprise = torch.log((self.tokens_ + 1) / (seen.double() + 1))
        total = pairs.weight.new_zeros(len(reading.token_ids), dtype=torch.float64)
        total.index_add_(0, pairs.token, pairs.weight.double() * surprise)
        return reading.by_text(total, self.pooling)


@dataclass
class PairGaussian:
    """A text's pair sums, hashed into `width` columns, under a Gaussian of trusted texts.

    Columns get signed sums, so that pairs that share one do not add up; the Gaussian is
    scikit-learn's probabilistic PCA, and the score its negative log likelihood.
    """

    measure: Measure = "I"
    width: int = 1024
    components: int = 16

    def fit(self, trusted: Sequence[TextReading]) -> PairGaussian:
        vectors = torch.cat([self._vectors(reading) for reading in trusted])
        self.gaussian_ = fit_gaussian(vectors, self.components)
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        return -torch.from_numpy(self.gaussian_.score_samples(self._vectors(reading).cpu().numpy()))

    def _vectors(self, reading: TextReading) -> Float[Tensor, "S width"]:
        pairs = pair_weights(reading, self.measure)
        column, sign = hashed(pairs.key, self.width)
        text = reading.sequence[pairs.token]
        flat = pairs.weight.new_zeros(len(reading.tokens) * self.width, dtype=torch.float64)
        flat.index_add_(0, text * self.width + column, sign * pairs.weight.double())
        tokens = torch.bincount(reading.sequence, minlength=len(reading.tokens))
        return flat.view(-1, self.width) / tokens[:, None]


def counted(
    keys: Int[Tensor, " X"], known: Int[Tensor, " U"], counts: Int[Tensor, " U"]
) -> Int[Tensor, " X"]:
    """The count of each key; 0 for those that are not among the (sorted) known ones."""
    if len(known) == 0:
        return torch.zeros_like(keys)
    at = torch.searchsorted(known, keys).clamp_max(len(known) - 1)
    return torch.where(known[at] == keys, counts[at], 0)


def hashed(keys: Int[Tensor, " X"], width: int) -> tuple[Int[Tensor, " X"], Float[Tensor, " X"]]:
    """A column below `width` and a sign for every key, evenly spread and always the same."""
    mixed = (keys + 1) * _MIX
    mixed = (mixed ^ (mixed >> 29)) * _MIX
    return (mixed >> 33) % width, 1.0 - 2.0 * (mixed >> 32 & 1).double()
