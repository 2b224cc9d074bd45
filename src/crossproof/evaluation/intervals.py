"""Intervals from resampled sequences: the one bootstrap of the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossproof.tables import Estimate

Sums = Mapping[str, NDArray[np.float64]]
"""Per-sequence sums by name, each [S, ...]: statistics are functions of their totals."""


@dataclass(frozen=True)
class PartEstimate(Estimate):
    """A mean over parts with its 95% percentile interval over sequences, and its parts.

    One sequence alone gives no interval.
    """

    mean: float
    ci: tuple[float, float] | None
    parts: tuple[float, ...] = ()


def estimate(
    sums: Sums,
    statistic: Callable[[Sums], NDArray[np.float64]],
    resamples: int = 1000,
    seed: int = 0,
    where_defined: bool = False,
) -> PartEstimate:
    """The mean over parts of `statistic(totals)`, which maps totals [R, ...] to [R, parts].

    R sets of totals are computed at once: the sequences as they are, and `resamples` draws of as
    many sequences with replacement. Estimates with equal seeds and sequences are paired. With
    `where_defined` parts that are not defined (NaN) are no part of the mean, unless none is.
    """
    count = len(next(iter(sums.values())))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    weights = np.concatenate([np.ones((1, count)), draws])
    totals = {name: np.tensordot(weights, value, axes=1) for name, value in sums.items()}
    parts = statistic(totals)
    defined = ~np.isnan(parts[0])
    means = (
        parts[:, defined].mean(axis=1) if where_defined and defined.any() else parts.mean(axis=1)
    )
    low, high = np.quantile(means[1:], [0.025, 0.975])
    ends = (float(low), float(high)) if count > 1 else None
    return PartEstimate(float(means[0]), ends, tuple(float(part) for part in parts[0]))
