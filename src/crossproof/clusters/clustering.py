"""All clusterings of one crosscoder, made and judged alike, with their random controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossproof.clusters.explain import sides
from crossproof.clusters.judges import Judge
from crossproof.clusters.partitions import Partition, agreement, partition
from crossproof.clusters.prepare import ClusterMaterial
from crossproof.clusters.result import Accuracy, ClusteringSummary
from crossproof.clusters.scoring import Answers, accuracy
from crossproof.clusters.settings import Algorithm, Material
from crossproof.clusters.similarities import similarity
from crossproof.clusters.task import CONTROLS, Control, Trial, draw_trials, with_controls

TEXT_FREE = ("decoder-cosine", "decoder-cosine-mlp-in")
"""Similarities that do not depend on any text."""
AnsweredTrials = tuple[tuple[Sequence[Trial], Answers], ...]
"""Trials and the judge's choices, a seed."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """One similarity's clusters, a partition a seed, and the trials about them."""

    similarity: str
    partitions: list[Partition]
    agreement_halves: float | None
    """Adjusted Rand index between the two halves of the measured text."""
    trials: dict[Control, list[list[Trial]]]
    """By control, then seed."""

    @property
    def every_trial(self) -> list[Trial]:
        """All trials of all controls and seeds."""
        return [trial for seeds in self.trials.values() for trials in seeds for trial in trials]

    def summary(self) -> ClusteringSummary:
        """Sizes and stability."""
        sizes = [[len(group) for group in p.groups()] for p in self.partitions]
        return ClusteringSummary(
            clusters=tuple(sum(size > 1 for size in seed) for seed in sizes),
            largest=tuple(max(seed) for seed in sizes),
            singletons=tuple(sum(size == 1 for size in seed) for seed in sizes),
            converged=tuple(p.converged for p in self.partitions),
            agreement_seeds=agreement(self.partitions),
            agreement_halves=self.agreement_halves,
        )


def cluster_latents(
    material: ClusterMaterial,
    name: str,
    algorithm: Algorithm = "affinity",
    clusters: int = 0,
    seeds: Sequence[int] = (0, 1, 2),
    per_cluster: int = 4,
) -> Clustering:
    """Clusters by one similarity, and the trials about them and about their random controls."""
    values = similarity(name, material.evidence, material.latents)
    partitions = [partition(values, algorithm, seed, clusters) for seed in seeds]
    halves = None
    if name not in TEXT_FREE and len(material.halves) > 1:
        of_halves = [similarity(name, half, material.latents) for half in material.halves]
        halves = agreement([partition(v, algorithm, seeds[0], clusters) for v in of_halves])
    frequencies = material.frequencies
    trials: dict[Control, list[list[Trial]]] = {control: [] for control in CONTROLS}
    for seed, made in zip(seeds, partitions, strict=True):
        for control, labels in with_controls(made.labels.numpy(), frequencies, seed).items():
            trials[control].append(draw_trials(labels, frequencies, seed, per_cluster))
    return Clustering(name, partitions, halves, trials)


def ask(
    clusterings: Sequence[Clustering],
    material: ClusterMaterial,
    shown_by: Material,
    judge: Judge,
) -> dict[str, dict[Control, AnsweredTrials]]:
    """A judge's answers by similarity and control. All questions are put in one go."""
    latents = material.latents.tolist()
    trials = [trial for clustering in clusterings for trial in clustering.every_trial]
    if shown_by == "explanations":
        material.texts.explain(sides(trials, latents))
    choices = iter(judge.choose(material.texts.questions(trials, latents, shown_by)))
    return {
        clustering.similarity: {
            control: tuple((seed, [next(choices) for _ in seed]) for seed in seeds)
            for control, seeds in clustering.trials.items()
        }
        for clustering in clusterings
    }


def accuracies(
    answers: dict[str, dict[Control, AnsweredTrials]], resamples: int = 1000
) -> dict[str, dict[Control, Accuracy]]:
    """Accuracy by similarity and control."""
    return {
        name: {control: accuracy(seeds, resamples) for control, seeds in by_control.items()}
        for name, by_control in answers.items()
    }
