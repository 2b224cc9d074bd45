"""Answers about one clustering beside answers about another: the difference, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.accuracy import Answers
from crossproof.clusters.trials import Labels, Trial
from crossproof.evaluation.intervals import PartEstimate, estimate


@dataclass(frozen=True, eq=False)
class Answered:
    """One clustering of R latents with a judge's answers."""

    labels: Labels
    """The cluster of each latent, [R], with the first seed."""
    seeds: tuple[tuple[Sequence[Trial], Answers], ...]
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
    found: list[PartEstimate] = []
    for labels in (one.labels, other.labels):
        groups = np.unique(labels, return_inverse=True)[1]
        sums = {
            str(i): np.bincount(groups, weights=own).astype(np.float64)
            for i, own in enumerate(counts)
        }
        found.append(estimate(sums, _gap, resamples))
    widest = max(found, key=lambda f: f.ci[1] - f.ci[0])
    return {"mean": widest.mean, "ci": list(widest.ci)}


def _gap(sums: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    right, asked, other_right, other_asked = (sums[str(i)] for i in range(4))
    gap: NDArray[np.float64] = right / np.maximum(asked, 1) - other_right / np.maximum(
        other_asked, 1
    )
    return gap[:, None]


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
