"""How often judges are right, with intervals over clusters or latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.judges import DetectionSheet
from crossproof.clusters.result import Accuracy, Confusion, Detection, SizeAccuracy
from crossproof.clusters.task import CHANCE, Trial
from crossproof.evaluation.bootstrap import Sums, estimate
from crossproof.tables import Estimate

SIZES = ((2, 2, "2"), (3, 3, "3"), (4, 5, "4–5"), (6, 10, "6–10"), (11, 10**9, "11+"))
"""Sizes of clusters that are put together, both ends included, and what they are called."""

Answers = Sequence[int | None]
Asked = list[tuple[Trial, int | None]]


def accuracy(seeds: Sequence[tuple[Sequence[Trial], Answers]], resamples: int = 1000) -> Accuracy:
    """Accuracy over all seeds.

    `seeds` are trials with the judge's choices; a question that was not answered counts as wrong
    and is reported. Trials of one cluster hang together, and clusters of different seeds are much
    the same clusters: the 95% interval is over the clusters of one seed, its ends averaged over
    seeds, and does not shrink with the number of seeds.
    """
    asked: list[Asked] = [list(zip(trials, answers, strict=True)) for trials, answers in seeds]
    by_size = []
    for low, high, name in SIZES:
        some = [[pair for pair in pairs if low <= pair[0].size <= high] for pairs in asked]
        if any(some):
            by_size.append(SizeAccuracy(**_pooled(some, resamples), sizes=name))
    return Accuracy(
        **_pooled(asked, resamples),
        clusters=sum(len({trial.cluster for trial, _ in pairs}) for pairs in asked),
        unanswered=sum(answer is None for pairs in asked for _, answer in pairs),
        chance=CHANCE,
        by_size=tuple(by_size),
    )


def detection(
    sheets: Sequence[DetectionSheet],
    decisions: Sequence[Sequence[bool] | None],
    resamples: int = 1000,
) -> Detection:
    """Sensitivity, specificity and balanced accuracy with 95% intervals over latents.

    Counts of the confusion matrix are over all pieces; latents without an answer are left out and
    counted as `unanswered`.
    """
    rows = [
        _outcomes(sheet.active, decided)
        for sheet, decided in zip(sheets, decisions, strict=True)
        if decided is not None
    ]
    unanswered = sum(decided is None for decided in decisions)
    if not rows:
        return Detection(0, unanswered)
    sums = dict(zip(("tp", "fn", "fp", "tn"), np.array(rows, dtype=np.float64).T, strict=True))

    def sensitivity(totals: Sums) -> NDArray[np.float64]:
        return ratio(totals["tp"], totals["tp"] + totals["fn"])

    def specificity(totals: Sums) -> NDArray[np.float64]:
        return ratio(totals["tn"], totals["tn"] + totals["fp"])

    def balanced(totals: Sums) -> NDArray[np.float64]:
        return (sensitivity(totals) + specificity(totals)) / 2

    return Detection(
        len(rows),
        unanswered,
        Confusion(**{name: int(column.sum()) for name, column in sums.items()}),
        *(interval(sums, share, resamples) for share in (sensitivity, specificity, balanced)),
    )


def interval(
    sums: Mapping[str, NDArray[np.float64]],
    statistic: Callable[[Sums], NDArray[np.float64]],
    resamples: int,
) -> Estimate:
    """A statistic of totals with its 95% interval over what the sums [S] are sums of."""
    figure = estimate(sums, lambda totals: statistic(totals)[:, None], resamples)
    return Estimate(figure.mean, figure.ci)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """part / whole, and 0 where the whole is."""
    value: NDArray[np.float64] = part / np.maximum(whole, 1)
    return value


def _pooled(seeds: Sequence[Asked], resamples: int) -> dict[str, Any]:
    """Mean, interval and number of trials; no figures where no question was asked, and no interval
    where no seed has two clusters."""
    figures = [_of_seed(asked, resamples) for asked in seeds if asked]
    means = [figure.mean for figure in figures if figure.mean is not None]
    ends = [figure.ci for figure in figures if figure.ci is not None]
    return {
        "mean": float(np.mean(means)) if means else None,
        "ci": tuple(float(np.mean([e[side] for e in ends])) for side in (0, 1)) if ends else None,
        "by_seed": tuple(means),
        "trials": sum(len(asked) for asked in seeds),
    }


def _of_seed(asked: Asked, resamples: int) -> Estimate:
    clusters = {c: i for i, c in enumerate(sorted({trial.cluster for trial, _ in asked}))}
    right, every = np.zeros(len(clusters)), np.zeros(len(clusters))
    for trial, answer in asked:
        right[clusters[trial.cluster]] += answer == trial.answer
        every[clusters[trial.cluster]] += 1
    sums = {"right": right, "asked": every}
    figure = interval(sums, lambda totals: ratio(totals["right"], totals["asked"]), resamples)
    return figure if len(clusters) > 1 else Estimate(figure.mean)  # of one there is no spread


def _outcomes(active: Sequence[bool], decided: Sequence[bool]) -> tuple[int, int, int, int]:
    pairs = list(zip(active, decided, strict=True))
    return (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
    )
