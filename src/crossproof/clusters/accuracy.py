"""How often a judge is right, with intervals over clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.trials import CHANCE, Trial
from crossproof.evaluation.intervals import estimate

SIZES = ((2, 2, "2"), (3, 3, "3"), (4, 5, "4–5"), (6, 10, "6–10"), (11, 10**9, "11+"))
"""Sizes of clusters that are put together, both ends included, and what they are called."""

Answers = Sequence[int | None]


def accuracy(
    seeds: Sequence[tuple[Sequence[Trial], Answers]], resamples: int = 1000
) -> dict[str, Any]:
    """Accuracy over all seeds, as plain values.

    `seeds` are trials with the judge's choices; a question that was not answered counts as wrong
    and is reported. Trials of one cluster hang together, and clusters of different seeds are much
    the same clusters: the 95% interval is over the clusters of one seed, its ends averaged over
    seeds, and does not shrink with the number of seeds.
    """
    every = [pair for trials, answers in seeds for pair in zip(trials, answers, strict=True)]
    return _pooled([list(zip(*seed, strict=True)) for seed in seeds], resamples) | {
        "clusters": sum(len({trial.cluster for trial in trials}) for trials, _ in seeds),
        "unanswered": sum(answer is None for _, answer in every),
        "chance": CHANCE,
        "by_size": [
            {"sizes": name} | found
            for low, high, name in SIZES
            if (found := _pooled([_of_sizes(low, high, *seed) for seed in seeds], resamples))[
                "trials"
            ]
        ],
    }


Asked = list[tuple[Trial, int | None]]


def _pooled(seeds: Sequence[Asked], resamples: int) -> dict[str, Any]:
    """Mean, interval and number of trials; no figures where no question was asked, and no interval
    where no seed has two clusters."""
    found = [_of_seed(asked, resamples) for asked in seeds if asked]
    ends = [interval for _, interval in found if interval is not None]
    trials = sum(len(asked) for asked in seeds)
    if not found:
        return {"mean": None, "ci": None, "by_seed": [], "trials": 0}
    return {
        "mean": float(np.mean([mean for mean, _ in found])),
        "ci": [float(np.mean([e[side] for e in ends])) for side in (0, 1)] if ends else None,
        "by_seed": [mean for mean, _ in found],
        "trials": trials,
    }


def _of_sizes(low: int, high: int, trials: Sequence[Trial], answers: Answers) -> Asked:
    pairs = zip(trials, answers, strict=True)
    return [(trial, answer) for trial, answer in pairs if low <= trial.size <= high]


def _of_seed(pairs: Asked, resamples: int) -> tuple[float, tuple[float, float] | None]:
    clusters = {c: i for i, c in enumerate(sorted({trial.cluster for trial, _ in pairs}))}
    right, asked = np.zeros(len(clusters)), np.zeros(len(clusters))
    for trial, answer in pairs:
        right[clusters[trial.cluster]] += answer == trial.answer
        asked[clusters[trial.cluster]] += 1

    def share(sums: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        value: NDArray[np.float64] = sums["right"] / sums["asked"]
        return value[:, None]

    found = estimate({"right": right, "asked": asked}, share, resamples)
    return found.mean, found.ci if len(clusters) > 1 else None  # of one there is no spread
