"""Answers about one clustering beside answers about another: the difference, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters import AnsweredTrials, Trial, interval, ratio
from crossproof.tables import Estimate

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answered:
    """One clustering of R latents with a judge's answers."""

    labels: Labels
    """The cluster of each latent, [R], with the first seed."""
    seeds: AnsweredTrials
    """Questions and choices, a seed."""


def pool(parts: Sequence[Answered]) -> Answered:
    """Several crosscoders' answers as if their latents were those of one."""
    labels: list[Labels] = []
    seeds: list[tuple[list[Trial], list[int | None]]] = [([], []) for _ in parts[0].seeds]
    latents = clusters = 0
    for part in parts:
        labels.append(part.labels + clusters)
        highest = int(part.labels.max())
        for together, (trials, answers) in zip(seeds, part.seeds, strict=True):
            together[0].extend(_moved(trial, latents, clusters) for trial in trials)
            together[1].extend(answers)
            highest = max(highest, *(trial.cluster for trial in trials), 0)
        latents, clusters = latents + len(part.labels), clusters + highest + 1
    return Answered(np.concatenate(labels), tuple(seeds))


def difference(one: Answered, other: Answered, resamples: int = 1000) -> dict[str, Any]:
    """Accuracy of `one` minus accuracy of `other`, both about the same latents.

    Paired: a question is about the member that is among the candidates, and what is resampled are
    groups of latents, with all the questions about them under either clustering and every seed.
    Questions about one cluster hang together, so groups are clusters, once of the one and once of
    the other; the wider 95% interval is kept.
    """
    size = len(one.labels)
    counts = [*_counts(one, size), *_counts(other, size)]
    figures: list[Estimate] = []
    for labels in (one.labels, other.labels):
        groups = np.unique(labels, return_inverse=True)[1]
        sums = {
            str(i): np.bincount(groups, weights=own).astype(np.float64)
            for i, own in enumerate(counts)
        }
        figures.append(interval(sums, _gap, resamples))
    mean, ci = figures[0].mean, max((f.ci for f in figures if f.ci), key=lambda ci: ci[1] - ci[0])
    return {"mean": mean, "ci": list(ci)}


def _gap(sums: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    right, asked, other_right, other_asked = (sums[str(i)] for i in range(4))
    return ratio(right, asked) - ratio(other_right, other_asked)


def _counts(answered: Answered, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right answers and questions by the member that is among the candidates, over all seeds."""
    right, asked = np.zeros(size), np.zeros(size)
    for trials, answers in answered.seeds:
        for trial, answer in zip(trials, answers, strict=True):
            member = trial.options[trial.answer]
            right[member] += answer == trial.answer
            asked[member] += 1
    return right, asked


def _moved(trial: Trial, latents: int, clusters: int) -> Trial:
    return replace(
        trial,
        cluster=trial.cluster + clusters,
        shown=tuple(i + latents for i in trial.shown),
        options=tuple(i + latents for i in trial.options),
    )
