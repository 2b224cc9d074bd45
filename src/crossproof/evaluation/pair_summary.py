"""From the sums of a measurement to figures with intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crossproof.evaluation.intervals import Sums, estimate
from crossproof.evaluation.measurement import InteractionSquare, OwnedShare, Totals
from crossproof.evaluation.pair_sums import InteractionTally
from crossproof.evaluation.results import BlockEstimate
from crossproof.evaluation.statistics import Statistic
from crossproof.interactions.matrix import Interactions

SQUARE = 24
"""Latents in the matrix that is shown."""
OWNERS = 5
"""Latents listed a block: those that own most neurons."""


def totals(tally: InteractionTally, resamples: int = 1000, seed: int = 0) -> Totals:
    """Every form per token and the dominated share of neurons, mean over blocks, with intervals."""
    return {
        name: BlockEstimate.of(estimate(tally.totals, _per_token(tally, name), resamples, seed))
        for name in tally.totals
        if name != "tokens"
    }


def ratios(
    first: InteractionTally, second: InteractionTally, resamples: int = 1000, seed: int = 0
) -> Totals:
    """Each form of `second` over that of `first`, with paired 95% intervals over sequences.

    Of the dominated share of neurons, which may be 0, the difference. Both must come from the
    same sequences.
    """
    paired: dict[str, NDArray[np.float64]] = {
        side + name: values
        for side, tally in (("first ", first), ("second ", second))
        for name, values in tally.totals.items()
    }
    return {
        name: BlockEstimate.of(estimate(paired, _ratio(name, first, second), resamples, seed))
        for name in first.totals
        if name != "tokens" and name in second.totals
    }


def _ratio(name: str, first: InteractionTally, second: InteractionTally) -> Statistic:
    below, above = _per_token(first, name, "first "), _per_token(second, name, "second ")

    def statistic(sums: Sums) -> NDArray[np.float64]:
        before, after = below(sums).mean(1), above(sums).mean(1)
        whole: NDArray[np.float64] = after - before if name == "dominated" else after / before
        return whole[:, None]

    return statistic


def _per_token(tally: InteractionTally, name: str, side: str = "") -> Statistic:
    neurons = np.array(tally.neurons, dtype=np.float64) if name == "dominated" else 1.0

    def statistic(sums: Sums) -> NDArray[np.float64]:
        values: NDArray[np.float64] = sums[side + name] / sums[f"{side}tokens"][:, None] / neurons
        return values

    return statistic


def owners(sums: Interactions) -> dict[str, tuple[OwnedShare, ...]]:
    """By block: the latents that own most (token, neuron) pairs, with their shares of them."""
    result = {}
    for block, counts in zip(sums.blocks, sums.owned.double(), strict=True):
        share, latent = (counts / counts.sum().clamp_min(1)).topk(min(OWNERS, len(counts)))
        rows = zip(latent.tolist(), share.tolist(), strict=True)
        result[str(block)] = tuple(OwnedShare(h, s) for h, s in rows if s > 0)
    return result


def square(sums: Interactions) -> InteractionSquare:
    """I between the latents that interact most, per token, rows dominant, blocks summed."""
    chosen = sums.strongest(SQUARE)
    values = sums.matrix("I", normalise="mean")[chosen][:, chosen]
    return InteractionSquare(tuple(chosen.tolist()), tuple(map(tuple, values.tolist())))
