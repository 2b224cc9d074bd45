"""Intervals over seeds and sequences at once.

Every crosscoder of a figure is measured on the same held-out sequences, so seeds and sequences
are crossed, and both are random. Each resample draws sequences (with replacement, the same for
all seeds and variants) and, independently, seeds: the pigeonhole bootstrap (Owen 2007). Of S
seeds S - 1 are drawn, which makes the variance of their mean unbiased (Rao and Wu 1988); drawing
S of a handful would make intervals too short. With one seed an interval is over sequences alone.

Resamples depend on nothing but the numbers of seeds and sequences, so differences between
variants are paired in both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossproof.errors import CrossproofError
from crossproof.evaluation import Array, Statistic, Sums

RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Draws:
    """A statistic [R + 1, parts]: row 0 as measured, the others resampled; see `estimate`."""

    values: Array

    def combine(self, rule: Callable[..., Array], *others: Draws) -> Draws:
        """`rule` of the resamples, one by one: intervals of the result keep the pairing."""
        return Draws(rule(self.values, *(other.values for other in others)))

    def __sub__(self, other: Draws) -> Draws:
        return self.combine(np.subtract, other)

    def __truediv__(self, other: Draws) -> Draws:
        return self.combine(np.divide, other)

    def mean(self) -> Draws:
        """The mean over parts, as a statistic of one part."""
        return Draws(self.values.mean(1, keepdims=True))

    @property
    def value(self) -> float:
        """The mean over parts, as measured."""
        return float(self.values[0].mean())

    def estimate(self) -> dict[str, Any]:
        """`mean` over parts and its 95% interval `ci`; with several, `parts` and `part_cis`."""
        low, high = _ends(self.values.mean(1))
        found: dict[str, Any] = {"mean": self.value, "ci": [low, high]}
        if self.values.shape[1] > 1:
            found["parts"] = self.values[0].tolist()
            found["part_cis"] = [list(_ends(column)) for column in self.values.T]
        return found


def over_seeds(
    seeds: Sequence[Sums], statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0
) -> Draws:
    """The mean over `seeds` of a statistic, with resamples of seeds and sequences.

    `seeds` holds the per-sequence sums of one crosscoder a seed, on the same sequences. Raises
    CrossproofError if they were measured on different numbers of sequences.
    """
    counts = {len(next(iter(sums.values()))) for sums in seeds}
    if len(counts) != 1:
        raise CrossproofError(
            f"Seeds were measured on {sorted(counts)} sequences: measure all on the same ones."
        )
    sequence_weights, seed_weights = _weights(counts.pop(), len(seeds), resamples, seed)
    each = []
    for sums in seeds:
        totals = {k: np.tensordot(sequence_weights, v, axes=1) for k, v in sums.items()}
        each.append(statistic(totals))
    return Draws(np.einsum("rs,srp->rp", seed_weights, np.stack(each)))


def _weights(sequences: int, seeds: int, resamples: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([seed, sequences])
    draws = rng.multinomial(sequences, np.full(sequences, 1 / sequences), size=resamples)
    sequence_weights = np.concatenate([np.ones((1, sequences)), draws])
    rng = np.random.default_rng([seed, seeds, 1])
    drawn = max(seeds - 1, 1)
    chosen = rng.multinomial(drawn, np.full(seeds, 1 / seeds), size=resamples) / drawn
    seed_weights = np.concatenate([np.full((1, seeds), 1 / seeds), chosen])
    return sequence_weights, seed_weights


def _ends(values: Array) -> tuple[float, float]:
    resampled = values[1:] if len(values) > 1 else values
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)
