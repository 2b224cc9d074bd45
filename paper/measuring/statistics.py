"""Intervals over prompts, or over seeds and sequences at once: the one bootstrap of the paper.

Every crosscoder of a figure is measured on the same held-out sequences, so seeds and sequences
are crossed, and both are random. Each resample draws sequences (with replacement, the same for
all seeds and variants) and, independently, seeds: the pigeonhole bootstrap (Owen 2007). Of S
seeds S - 1 are drawn, which makes the variance of their mean unbiased (Rao and Wu 1988); drawing
S of a handful would make intervals too short. With one seed an interval is over sequences alone.

Resamples depend on nothing but the numbers of seeds and sequences, so differences between
variants are paired in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof import CrossproofError

Array = NDArray[np.float64]
Sums = Mapping[str, Array]
"""Per-sequence sums by name, each [S, ...]: statistics are functions of their totals."""
Statistic = Callable[[Sums], Array]
"""From totals [R, ...] of R resamples to [R, parts]."""

RESAMPLES = 1000


def draws(count: int, resamples: int = RESAMPLES, seed: int = 0, stream: int = 0) -> Array:
    """Weights [1 + resamples, count]: each once, and then how often each draw holds it.

    Equal arguments give equal draws; another `stream` gives independent ones.
    """
    rng = np.random.default_rng([seed, stream])
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float64)


def percentiles(values: Array) -> tuple[float, float]:
    """The 95% percentile interval of all values but the first, which is the estimate itself."""
    resampled = values[1:] if len(values) > 1 else values
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class ResampledStatistic:
    """A statistic [R + 1, parts]: row 0 as measured, the others resampled; see `estimate`."""

    values: Array

    def combine(
        self, rule: Callable[..., Array], *others: ResampledStatistic
    ) -> ResampledStatistic:
        """`rule` of the resamples, one by one: intervals of the result keep the pairing."""
        return ResampledStatistic(rule(self.values, *(other.values for other in others)))

    def __sub__(self, other: ResampledStatistic) -> ResampledStatistic:
        return self.combine(np.subtract, other)

    def __truediv__(self, other: ResampledStatistic) -> ResampledStatistic:
        return self.combine(np.divide, other)

    def mean(self) -> ResampledStatistic:
        """The mean over parts, as a statistic of one part."""
        return ResampledStatistic(self.values.mean(1, keepdims=True))

    @property
    def value(self) -> float:
        """The mean over parts, as measured."""
        return float(self.values[0].mean())

    def estimate(self) -> dict[str, Any]:
        """`mean` over parts and its 95% interval `ci`; with several, `parts` and `part_cis`."""
        low, high = percentiles(self.values.mean(1))
        found: dict[str, Any] = {"mean": self.value, "ci": [low, high]}
        if self.values.shape[1] > 1:
            found["parts"] = self.values[0].tolist()
            found["part_cis"] = [list(percentiles(column)) for column in self.values.T]
        return found


def over_seeds(
    seeds: Sequence[Sums], statistic: Statistic, resamples: int = RESAMPLES, seed: int = 0
) -> ResampledStatistic:
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
    return ResampledStatistic(np.einsum("rs,srp->rp", seed_weights, np.stack(each)))


def _weights(sequences: int, seeds: int, resamples: int, seed: int) -> tuple[Array, Array]:
    sequence_weights = draws(sequences, resamples, seed, stream=sequences)
    rng = np.random.default_rng([seed, seeds, 1])
    drawn = max(seeds - 1, 1)
    chosen = rng.multinomial(drawn, np.full(seeds, 1 / seeds), size=resamples) / drawn
    seed_weights = np.concatenate([np.full((1, seeds), 1 / seeds), chosen])
    return sequence_weights, seed_weights
