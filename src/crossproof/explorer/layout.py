"""A plane in which latents with similar decoder vectors lie close together.

The objective is UMAP's with its usual constants (McInnes, Healy and Melville, 2018): neighbours in
the graph attract each other, others drawn by chance repel. A weak pull to the middle, which is not
UMAP's, keeps parts of the graph without an edge between them from drifting apart. Every step moves
all latents at once, so that the layout is the same on every machine with the same rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

A, B = 1.577, 0.895
"""The curve 1 / (1 + a d^2b) of a minimal distance of 0.1 and a spread of 1."""
STEPS, REPELLED, PULL = 150, 4, 0.05
_NEAREST_ZERO = 1e-3


def neighbour_map(
    latents: NDArray[np.int64], cosines: NDArray[np.float32], seed: int = 0
) -> NDArray[np.float32]:
    """Coordinates [H, 2] in [-1, 1] from each latent's neighbours [H, K] and their cosines."""
    count, width = latents.shape
    random = np.random.default_rng(seed)
    at = _spread(latents, cosines, random)
    if width == 0 or count < 3:
        return _unit(at)
    one = np.repeat(np.arange(count), width)
    other, weight = latents.ravel(), cosines.ravel().clip(0, 1)
    for step in range(STEPS):
        rate = 1.0 - step / STEPS
        gap = at[one] - at[other]
        square = (gap * gap).sum(1)
        force = ((_pull(square) * weight)[:, None] * gap).clip(-4, 4)
        move = _summed(one, force, count) - _summed(other, force, count)
        for _ in range(REPELLED):
            far = random.integers(0, count, count)
            gap = at - at[far]
            square = (gap * gap).sum(1)
            push = 2 * B / ((_NEAREST_ZERO + square) * (1 + A * square**B))
            move += (push[:, None] * gap).clip(-4, 4)
        at = at + rate * (move.clip(-4, 4) - PULL * at) * 0.25
    return _unit(at)


def _summed(row: NDArray[np.int64], force: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Of each latent the sum of its forces [count, 2]."""
    return np.stack([np.bincount(row, axis, count) for axis in force.T], 1)


def _pull(square: NDArray[np.float64]) -> NDArray[np.float64]:
    safe = np.maximum(square, 1e-9)
    pull: NDArray[np.float64] = -2 * A * B * safe ** (B - 1) / (1 + A * safe**B)
    return pull


def _spread(
    latents: NDArray[np.int64], cosines: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.float64]:
    """Where to begin: random directions, smoothed a little over the graph, and their ranks, because
    smoothing leaves a few far from all others."""
    at = random.normal(size=(len(latents), 2))
    for _ in range(20 if latents.size else 0):
        weights = cosines.clip(0, 1)[..., None] + 1e-6
        at = 0.5 * at + 0.5 * (weights * at[latents]).sum(1) / weights.sum(1)
        at = (at - at.mean(0)) / (at.std(0) + 1e-12)
    return 20 * (at.argsort(axis=0).argsort(axis=0) / len(at) - 0.5)


def _unit(at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Within [-1, 1], the middle 99% of each coordinate filling it."""
    low, high = np.quantile(at, 0.005, axis=0), np.quantile(at, 0.995, axis=0)
    scaled = (2 * (at - low) / np.maximum(high - low, 1e-12) - 1).clip(-1.1, 1.1) / 1.1
    return scaled.astype(np.float32)
