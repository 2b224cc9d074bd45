"""All clusterings of one crosscoder, found and judged alike, with their random controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crossproof.clusters.accuracy import accuracy
from crossproof.clusters.judges import Judge
from crossproof.clusters.paired import Answered
from crossproof.clusters.partition import Algorithm, Partition, agreement, partition
from crossproof.clusters.similarities import similarity
from crossproof.clusters.subject import Subject
from crossproof.clusters.texts import Material, Texts, needed, questions
from crossproof.clusters.trials import Trial, draw_trials, matched_labels, random_labels

CONTROLS = ("clusters", "random", "random, matched")
"""The clusters themselves; random ones of the same sizes; the same, matched in frequency."""
FIXED = ("decoder-cosine", "decoder-cosine-mlp-in")
"""Similarities that do not depend on any text."""


@dataclass(frozen=True, eq=False)
class Found:
    """One similarity's clusters, a partition a seed, and the trials about them."""

    similarity: str
    partitions: list[Partition]
    halves: float | None
    """Adjusted Rand index between the two halves of the measured text."""
    trials: dict[str, list[list[Trial]]]
    """By control, then seed."""

    @property
    def every(self) -> list[Trial]:
        """All trials of all controls and seeds."""
        return [trial for seeds in self.trials.values() for own in seeds for trial in own]

    def summary(self) -> dict[str, Any]:
        """Sizes and stability as plain values."""
        sizes = [[len(group) for group in p.groups()] for p in self.partitions]
        return {
            "clusters": [sum(size > 1 for size in own) for own in sizes],
            "largest": [max(own) for own in sizes],
            "singletons": [sum(size == 1 for size in own) for own in sizes],
            "converged": [p.converged for p in self.partitions],
            "agreement_seeds": agreement(self.partitions),
            "agreement_halves": self.halves,
        }


def find(
    subject: Subject,
    name: str,
    algorithm: Algorithm = "affinity",
    clusters: int = 0,
    seeds: Sequence[int] = (0, 1, 2),
    per_cluster: int = 4,
) -> Found:
    """Clusters by one similarity, and the trials about them and about their random controls."""
    values = similarity(name, subject.evidence, subject.latents)
    partitions = [partition(values, algorithm, seed, clusters) for seed in seeds]
    halves = None
    if name not in FIXED and len(subject.halves) > 1:
        parts = [
            partition(similarity(name, half, subject.latents), algorithm, seeds[0], clusters)
            for half in subject.halves
        ]
        halves = agreement(parts)
    frequencies = subject.frequencies
    trials: dict[str, list[list[Trial]]] = {control: [] for control in CONTROLS}
    for seed, found in zip(seeds, partitions, strict=True):
        labels = found.labels.numpy()
        variants = labels, random_labels(labels, seed), matched_labels(labels, frequencies, seed)
        for control, own in zip(CONTROLS, variants, strict=True):
            trials[control].append(draw_trials(own, frequencies, seed, per_cluster))
    return Found(name, partitions, halves, trials)


def judged(
    found: Sequence[Found],
    subject: Subject,
    texts: Texts,
    material: Material,
    judge: Judge,
    resamples: int = 1000,
) -> dict[str, dict[str, Any]]:
    """Accuracy by similarity and control."""
    return {
        similarity: {
            control: accuracy(answered.seeds, resamples) for control, answered in own.items()
        }
        for similarity, own in answers(found, subject, texts, material, judge).items()
    }


def answers(
    found: Sequence[Found], subject: Subject, texts: Texts, material: Material, judge: Judge
) -> dict[str, dict[str, Answered]]:
    """A judge's answers by similarity and control. All questions are put in one go."""
    latents = subject.latents.tolist()
    together = [trial for f in found for trial in f.every]
    if material == "explanations":
        texts.explain(needed(together, latents))
    choices = iter(
        judge.choose(
            questions(together, latents, lambda side, latent: texts.item(material, side, latent))
        )
    )
    return {
        f.similarity: {
            control: Answered(
                f.partitions[0].labels.numpy(),
                tuple((own, [next(choices) for _ in own]) for own in f.trials[control]),
            )
            for control in CONTROLS
        }
        for f in found
    }


def labels_of_latents(subject: Subject, found: Partition) -> torch.Tensor:
    """The cluster of every latent of the dictionary, -1 for those alone or not chosen."""
    labels = torch.full((subject.crosscoder.n_latents,), -1, dtype=torch.int64)
    for label, group in enumerate(found.groups(least=2)):
        labels[subject.latents[torch.tensor(group)]] = label
    return labels
