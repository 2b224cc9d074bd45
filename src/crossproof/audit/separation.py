"""How well scores tell two groups of texts apart, with bootstrap intervals over texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.errors import CrossproofError

Array = NDArray[np.float64]
FALSE_POSITIVES = 0.01


@dataclass(frozen=True)
class Separation:
    """AUROC and the true-positive rate at 1% false positives, with 95% percentile intervals."""

    auroc: float
    auroc_ci: tuple[float, float]
    tpr: float
    tpr_ci: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def separation(
    usual: Array, anomalous: Array, paired: bool = False, resamples: int = 1000, seed: int = 0
) -> Separation:
    """How far `anomalous` scores lie above `usual` ones.

    AUROC counts ties half. The threshold is the smallest usual score that at most 1% of the usual
    scores exceed; a true positive exceeds it. `paired`: the i-th scores of both groups belong to
    twins, which are drawn together. Raises CrossproofError for an empty group, or pairs that do
    not match.
    """
    if len(usual) == 0 or len(anomalous) == 0:
        raise CrossproofError("Both groups of scores need at least one text.")
    if paired and len(usual) != len(anomalous):
        raise CrossproofError(
            f"Twins come in pairs, but there are {len(usual)} and {len(anomalous)} scores."
        )
    rng = np.random.default_rng(seed)
    draws = _weights(rng, len(usual), resamples)
    others = draws if paired else _weights(rng, len(anomalous), resamples)
    above = (anomalous[:, None] > usual).astype(np.float64) + 0.5 * (anomalous[:, None] == usual)
    aurocs = np.einsum("rm,mn,rn->r", others, above, draws, optimize=True)
    aurocs /= others.sum(1) * draws.sum(1)
    rates = np.array([_rate(usual, anomalous, w, v) for w, v in zip(draws, others, strict=True)])
    return Separation(float(aurocs[0]), _interval(aurocs), float(rates[0]), _interval(rates))


def _weights(rng: np.random.Generator, count: int, resamples: int) -> Array:
    """Each text once, and then how often each of `resamples` draws holds it."""
    draws = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), draws]).astype(np.float64)


def _rate(usual: Array, anomalous: Array, weights: Array, others: Array) -> float:
    order = np.argsort(-usual, kind="stable")
    exceeding = np.cumsum(weights[order])
    # A score is a fair threshold if the weight strictly above it is at most 1%.
    strictly = np.concatenate([[0.0], exceeding[:-1]])
    first = np.searchsorted(-usual[order], -usual[order], side="left")
    fair = strictly[first] <= FALSE_POSITIVES * weights.sum()
    threshold = usual[order][fair].min()
    return float(others[anomalous > threshold].sum() / others.sum())


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return float(low), float(high)
