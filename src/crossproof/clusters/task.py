"""The odd-one-in task, the random clusters that it is also asked about, and how it is scored.

A cluster is shown by some of its members; of five candidates exactly one is another member. The
other four are latents of other clusters with nearly the same frequency, so that nothing but the
meaning tells them apart. Candidates are drawn in the same way for every clustering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.judges import DetectionSheet
from crossproof.clusters.result import (
    Accuracy,
    Confusion,
    Detection,
    PooledAccuracy,
    SizeAccuracy,
)
from crossproof.clusters.settings import CHANCE, CONTROLS, OPTIONS, Control
from crossproof.evaluation.intervals import Sums, estimate
from crossproof.tables import Estimate

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

SHOWN = 4
"""Members that show the cluster, at most."""
NEIGHBOURS = 20
"""Distractors are drawn from so many latents that are nearest in frequency."""
BIN = 10
"""Latents of near frequency among which frequency-matched random clusters exchange members."""
SIZES = ((2, 2, "2"), (3, 3, "3"), (4, 5, "4–5"), (6, 10, "6–10"), (11, 10**9, "11+"))
"""Sizes of clusters that are put together, both ends included, and what they are called."""

Answers = Sequence[int | None]


@dataclass(frozen=True)
class Trial:
    """One question: positions of latents among the chosen ones."""

    cluster: int
    size: int
    """Members of the cluster."""
    shown: tuple[int, ...]
    options: tuple[int, ...]
    answer: int
    """Which option is the member."""


Asked = list[tuple[Trial, int | None]]


def draw_trials(
    labels: Labels, frequencies: Floats, seed: int, per_cluster: int = 4
) -> list[Trial]:
    """Up to `per_cluster` trials for every cluster of two or more, each with another member out.

    `labels` [R] and `frequencies` [R] are of the chosen latents; every frequency must be positive.
    Clusters with fewer than four latents outside are passed over.
    """
    rng = np.random.default_rng(seed)
    logs, trials = np.log(frequencies), []
    for cluster in range(int(labels.max()) + 1 if len(labels) else 0):
        members = np.flatnonzero(labels == cluster)
        others = np.flatnonzero(labels != cluster)
        if len(members) < 2 or len(others) < OPTIONS - 1:
            continue
        for out in rng.permutation(members)[:per_cluster]:
            rest = rng.permutation(members[members != out])[:SHOWN]
            near = others[np.argsort(np.abs(logs[others] - logs[out]), kind="stable")]
            wrong = rng.permutation(near[:NEIGHBOURS])[: OPTIONS - 1]
            options = rng.permutation(np.append(wrong, out))
            answer = int(np.flatnonzero(options == out)[0])
            shown, given = tuple(rest.tolist()), tuple(options.tolist())
            trials.append(Trial(cluster, len(members), shown, given, answer))
    return trials


def random_labels(labels: Labels, seed: int) -> Labels:
    """Clusters of the same sizes with members drawn at random."""
    return np.random.default_rng(seed).permutation(labels)


def matched_labels(labels: Labels, frequencies: Floats, seed: int) -> Labels:
    """The same, but every member is exchanged with a latent of nearly the same frequency.

    Latents are ordered by frequency and labels shuffled within bins of `BIN`: sizes stay as they
    are, and each cluster keeps its profile of frequencies.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(frequencies, kind="stable")
    shuffled = labels.copy()
    for start in range(0, len(order), BIN):
        part = order[start : start + BIN]
        shuffled[part] = rng.permutation(labels[part])
    return shuffled


def with_controls(labels: Labels, frequencies: Floats, seed: int) -> dict[Control, Labels]:
    """The clusters and both random controls, by name."""
    random, matched = random_labels(labels, seed), matched_labels(labels, frequencies, seed)
    return dict(zip(CONTROLS, (labels, random, matched), strict=True))


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
            by_size.append(SizeAccuracy(**vars(_pooled(some, resamples)), sizes=name))
    return Accuracy(
        **vars(_pooled(asked, resamples)),
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
    counted as `unanswered`. There is no sensitivity without active pieces, and no specificity
    without inactive ones, as of latents that are always active.
    """
    unanswered = sum(decided is None for decided in decisions)
    tallies = [
        Counter(zip(sheet.active, decided, strict=True))
        for sheet, decided in zip(sheets, decisions, strict=True)
        if decided is not None
    ]
    if not tallies:
        return Detection(0, unanswered)
    kinds = {"tp": (True, True), "fn": (True, False), "fp": (False, True), "tn": (False, False)}
    sums = {
        name: np.array([tally[kind] for tally in tallies], dtype=np.float64)
        for name, kind in kinds.items()
    }

    def share(right: str, wrong: str) -> Callable[[Sums], NDArray[np.float64]]:
        return lambda totals: ratio(totals[right], totals[right] + totals[wrong])

    sensitivity, specificity = share("tp", "fn"), share("tn", "fp")
    confusion = Confusion(**{name: int(column.sum()) for name, column in sums.items()})
    active, inactive = confusion.tp + confusion.fn, confusion.fp + confusion.tn

    def figure(statistic: Callable[[Sums], NDArray[np.float64]], pieces: int) -> Estimate | None:
        return interval(sums, statistic, resamples) if pieces else None

    return Detection(
        len(tallies),
        unanswered,
        confusion,
        figure(sensitivity, active),
        figure(specificity, inactive),
        figure(lambda t: (sensitivity(t) + specificity(t)) / 2, active * inactive),
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


def _pooled(seeds: Sequence[Asked], resamples: int) -> PooledAccuracy:
    """Mean, interval and number of trials; no figures where no question was asked, and no interval
    where no seed has two clusters."""
    figures = [_of_seed(asked, resamples) for asked in seeds if asked]
    means = [figure.mean for figure in figures if figure.mean is not None]
    ends = [figure.ci for figure in figures if figure.ci is not None]
    low, high = (float(np.mean(side)) for side in zip(*ends, strict=True)) if ends else (0.0, 0.0)
    return PooledAccuracy(
        mean=float(np.mean(means)) if means else None,
        ci=(low, high) if ends else None,
        by_seed=tuple(means),
        trials=sum(len(asked) for asked in seeds),
    )


def _of_seed(asked: Asked, resamples: int) -> Estimate:
    """Accuracy with its interval over clusters; of one cluster there is no spread."""
    clusters, which = np.unique([trial.cluster for trial, _ in asked], return_inverse=True)
    right = np.array([answer == trial.answer for trial, answer in asked], dtype=np.float64)
    right = np.bincount(which, weights=right).astype(np.float64)
    sums = {"right": right, "asked": np.bincount(which).astype(np.float64)}
    figure = interval(sums, lambda totals: ratio(totals["right"], totals["asked"]), resamples)
    return figure if len(clusters) > 1 else Estimate(figure.mean)
