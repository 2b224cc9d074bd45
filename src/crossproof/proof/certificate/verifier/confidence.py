"""Upper confidence bounds on the mean of independent, identically distributed numbers in [0, 1].

Each of the three holds with probability 1 - α for every distribution on [0, 1] and every number of
draws; none is asymptotic. `betting` is the one that claims rest on; the others stand beside it.
Every bound is rounded up.
"""

from __future__ import annotations

import math

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import UNIT, UP, Array, gamma

LARGEST_BET = 0.75
"""The share of the capital that a bet may lose: c of Waudby-Smith and Ramdas."""
STEPS = 40
"""Halvings of the interval in which the bound lies."""


def hoeffding(values: Array, alpha: float) -> float:
    """Mean + √(log(1/α) / 2n): Hoeffding (1963). Knows nothing of the variance."""
    return _up(_mean(values) + math.sqrt(math.log(1 / alpha) / (2 * len(values))))


def empirical_bernstein(values: Array, alpha: float) -> float:
    """Mean + √(2 V log(2/α) / n) + 7 log(2/α) / 3(n - 1), V the sample variance.

    Maurer and Pontil (2009), theorem 4. 1, which is always true, for a single number.
    """
    count, log = len(values), math.log(2 / alpha)
    if count < 2:
        return 1.0
    variance = math.fsum(((values - _mean(values)) ** 2).tolist()) / (count - 1)
    return _up(_mean(values) + math.sqrt(2 * variance * log / count) + 7 * log / (3 * (count - 1)))


def betting(values: Array, alpha: float) -> float:
    """The least m at which a gambler who bets that the mean is below m has won 1/α times his stake.

    Waudby-Smith and Ramdas (2024), one side of the hedged capital process with predictable plug-in
    bets. Of a game that is fair or worse at m (the mean is at least m) the capital is a
    non-negative supermartingale, which reaches 1/α with probability α at most (Ville). Bets are
    made in the order of `values` and know only what came before.
    """
    bets, needed = _bets(values, alpha), math.log(1 / alpha)
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _won(values, bets, middle) >= needed:
            high = middle
        else:
            low = middle
    return high


def binomial(successes: int, count: int, alpha: float) -> float:
    """The least p at which `successes` or fewer of `count` have probability α or less.

    Clopper and Pearson (1934): exact for draws that are 0 or 1. 1 if all are successes.
    """
    k, needed = np.arange(1, successes + 1), math.log(alpha)
    ways = np.concatenate([[0.0], np.cumsum(np.log((count - k + 1) / k))])
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if _tail(ways, count, middle) <= needed:
            high = middle
        else:
            low = middle
    return high


def _tail(ways: Array, count: int, chance: float) -> float:
    """An upper bound on log Σ_i e^{ways_i} p^i (1 - p)^{n - i}."""
    successes, no, yes = np.arange(len(ways)), math.log1p(-chance), math.log(chance)
    terms = ways + successes * yes + (count - successes) * no
    total = terms.max() + math.log(np.exp(terms - terms.max()).sum())
    # Every term is a sum of at most n + 2 logarithms, none above |ways| + n |log p(1 - p)|.
    return float(total + gamma(count + 16) * (ways.max() - count * (yes + no) + 8))


def _bets(values: Array, alpha: float) -> Array:
    """λ_i = √(2 log(1/α) / n σ²_{i-1}), σ² the variance so far, with one draw of 1/4 before."""
    count = len(values)
    seen = np.arange(2, count + 2)
    means = (0.5 + np.cumsum(values)) / seen
    variances = (0.25 + np.cumsum((values - means) ** 2)) / seen
    before = np.concatenate([[0.25], variances[:-1]])
    return np.sqrt(2 * math.log(1 / alpha) / (count * before))


def _won(values: Array, bets: Array, mean: float) -> float:
    """A lower bound on the largest logarithm of the capital Π (1 + λ_i (m - x_i)) along the way.

    λ_i is at most c / (1 - m), so that no bet loses more than c; the capital rises with m.
    """
    limited = np.minimum(bets, LARGEST_BET / (1 - mean))
    steps = np.log1p(limited * (mean - values))
    sizes = np.abs(steps) + 8  # of every step and of the roundings behind it, 1 + λ(m - x) ≥ 1 - c
    slack = gamma(len(steps) + 16) * np.cumsum(sizes) * UP
    return float((np.cumsum(steps) - slack).max())


def _mean(values: Array) -> float:
    return math.fsum(values.tolist()) / len(values)


def _up(bound: float) -> float:
    """At most 1, and raised by what a few roundings may have taken from it."""
    return min(1.0, (bound + 32 * UNIT) * (1 + 32 * UNIT))
