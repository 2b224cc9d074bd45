"""From similarities to clusters, how stable they are, and what a judge says of them."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.cluster import AffinityPropagation, AgglomerativeClustering, SpectralClustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from crossproof.clusters.explain import sides
from crossproof.clusters.judges import Judge
from crossproof.clusters.preparing import NothingToClusterError, PreparedCrosscoder
from crossproof.clusters.result import Accuracy, ClusteringSummary
from crossproof.clusters.settings import CONTROLS, Algorithm, Control, Material
from crossproof.clusters.similarities import Evidence, similarity
from crossproof.clusters.task import Answers, Trial, accuracy, draw_trials, with_controls
from crossproof.errors import CrossproofError

Labels = Int[Tensor, " R"]

LATENTS_A_CLUSTER = 6
"""Of agglomerative and spectral clustering, where no number of clusters is given."""
DAMPING = (0.5, 0.7, 0.9)
"""Of affinity propagation: tried in turn until it converges."""
NEGLIGIBLE = 1e-12
"""Share of the largest absolute similarity up to which a positive one is rounding."""
TEXT_FREE = ("decoder-cosine", "decoder-cosine-mlp-in")
"""Similarities that do not depend on any text."""
AnsweredTrials = tuple[tuple[Sequence[Trial], Answers], ...]
"""Trials and the judge's choices, a seed."""


@dataclass(frozen=True, eq=False)
class Partition:
    """Which cluster each latent belongs to, numbered from 0 by falling size."""

    labels: Labels
    converged: bool
    """False if affinity propagation stopped before its answer settled."""

    def groups(self, least: int = 1) -> list[list[int]]:
        """Positions of the members of each cluster with at least so many, largest first."""
        count = int(self.labels.max()) + 1 if len(self.labels) else 0
        every = [(self.labels == label).nonzero()[:, 0].tolist() for label in range(count)]
        return [group for group in every if len(group) >= least]


def partition(
    similarity: Float[Tensor, "R R"],
    algorithm: Algorithm = "affinity",
    seed: int = 0,
    clusters: int = 0,
) -> Partition:
    """Clusters of R latents.

    The similarity is divided by its largest entry off the diagonal and used as it is: as affinity
    (spectral; negative values count as 0), as one minus distance (agglomerative, average linkage),
    or with the median as every latent's preference (affinity propagation). `clusters` is ignored
    by affinity propagation, which finds the number itself; 0 means one for every
    `LATENTS_A_CLUSTER` latents. Raises NothingToClusterError for fewer than 3 latents and a
    similarity that is nowhere positive, CrossproofError for values that are not finite and more
    clusters than latents.
    """
    values = _scaled(similarity)
    if algorithm == "affinity":
        return _affinity(values, seed)
    wanted = clusters or max(2, round(len(values) / LATENTS_A_CLUSTER))
    if not 2 <= wanted <= len(values):
        raise CrossproofError(
            f"{len(values)} latents cannot be divided into {wanted} clusters: give 2 to "
            f"{len(values)}."
        )
    if algorithm == "agglomerative":
        distance = 1 - values
        np.fill_diagonal(distance, 0)
        model = AgglomerativeClustering(wanted, metric="precomputed", linkage="average")
        return Partition(_by_size(model.fit_predict(distance)), True)
    # A trace of similarity between all keeps the graph in one piece, which the method assumes.
    connected = values.clip(min=0) + 1e-6
    np.fill_diagonal(connected, 1)
    spectral = SpectralClustering(wanted, affinity="precomputed", random_state=seed)
    return Partition(_by_size(spectral.fit_predict(connected)), True)


def agreement(partitions: Sequence[Partition]) -> float | None:
    """Mean adjusted Rand index over all two of them; None if there is only one."""
    scores = [
        adjusted_rand_score(a.labels.numpy(), b.labels.numpy())
        for a, b in itertools.combinations(partitions, 2)
    ]
    return float(np.mean(scores)) if scores else None


def _affinity(values: NDArray[np.float64], seed: int) -> Partition:
    unsettled = None
    middle = float(np.median(values[~np.eye(len(values), dtype=bool)]))
    settings = {"preference": middle, "affinity": "precomputed", "random_state": seed}
    for damping in DAMPING:
        model = AffinityPropagation(damping=damping, max_iter=1000, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of not converging; it is in the answer
            labels = model.fit_predict(values)
        if (labels >= 0).all():
            unsettled = labels
            if model.n_iter_ < model.max_iter:
                return Partition(_by_size(labels), True)
    if unsettled is None:
        raise NothingToClusterError(
            "Affinity propagation found no clusters in this similarity: use --algorithm "
            "agglomerative or another --similarity."
        )
    return Partition(_by_size(unsettled), False)


def _scaled(similarity: Float[Tensor, "R R"]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = similarity.detach().cpu().double().numpy().copy()
    if len(values) < 3:
        raise NothingToClusterError(
            f"There are {len(values)} latents to cluster and at least 3 are needed: choose more."
        )
    if not np.isfinite(values).all():
        raise CrossproofError("The similarity has entries that are not finite: measure anew.")
    np.fill_diagonal(values, 0)
    largest = values.max()
    if largest <= NEGLIGIBLE * np.abs(values).max():
        raise NothingToClusterError(
            "No two of the chosen latents are similar at all, so there is nothing to cluster: "
            "measure more tokens or choose another --similarity."
        )
    scaled: NDArray[np.float64] = values / largest
    return scaled


def _by_size(labels: NDArray[np.integer[Any]]) -> Labels:
    """The same clusters numbered by falling size, ties by first member."""
    names, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    renamed = np.empty(names.max() + 1, dtype=np.int64)
    renamed[names[order]] = np.arange(len(names))
    return torch.from_numpy(renamed[labels])


@dataclass(frozen=True, eq=False)
class Clustering:
    """One similarity's clusters, a partition a seed, and the trials about them."""

    similarity: str
    partitions: list[Partition]
    agreement_halves: float | None
    """Adjusted Rand index between the two halves of the measured text."""
    halves_missing: str | None
    """Why there is none."""
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
            largest=tuple(map(max, sizes)),
            singletons=tuple(seed.count(1) for seed in sizes),
            converged=tuple(p.converged for p in self.partitions),
            agreement_seeds=agreement(self.partitions),
            agreement_halves=self.agreement_halves,
            halves_missing=self.halves_missing,
        )


def cluster_latents(
    prepared: PreparedCrosscoder,
    name: str,
    algorithm: Algorithm = "affinity",
    clusters: int = 0,
    seeds: Sequence[int] = (0, 1, 2),
    per_cluster: int = 4,
) -> Clustering:
    """Clusters by one similarity, and the trials about them and about their random controls.

    Raises as `partition` does, but for a half of the text that makes no clusters.
    """

    def made(evidence: Evidence, seeds: Sequence[int]) -> list[Partition]:
        values = similarity(name, evidence, prepared.latents)
        return [partition(values, algorithm, seed, clusters) for seed in seeds]

    partitions = made(prepared.evidence, seeds)
    halves, missing = None, None
    if name in TEXT_FREE:
        missing = "it does not depend on the text"
    elif len(prepared.halves) < 2:
        missing = "the halves of the text were not measured"
    else:
        try:
            halves = agreement([p for half in prepared.halves for p in made(half, seeds[:1])])
        except NothingToClusterError as error:
            missing = f"in one half: {error}"
    frequencies = prepared.frequencies
    trials: dict[Control, list[list[Trial]]] = {control: [] for control in CONTROLS}
    for seed, each in zip(seeds, partitions, strict=True):
        for control, labels in with_controls(each.labels.numpy(), frequencies, seed).items():
            trials[control].append(draw_trials(labels, frequencies, seed, per_cluster))
    return Clustering(name, partitions, halves, missing, trials)


def ask(
    clusterings: Sequence[Clustering],
    prepared: PreparedCrosscoder,
    material: Material,
    judge: Judge,
) -> dict[str, dict[Control, AnsweredTrials]]:
    """A judge's answers by similarity and control. All questions are put in one go."""
    latents = prepared.latents.tolist()
    trials = [trial for clustering in clusterings for trial in clustering.every_trial]
    if material == "explanations":
        prepared.texts.explain(sides(trials, latents))
    answers = judge.choose(prepared.texts.questions(trials, latents, material))
    if len(answers) != len(trials):
        raise CrossproofError(
            f"The judge {judge.name} gave {len(answers)} answers to {len(trials)} questions: run "
            f"`crossproof.clusters.check_judge` on it."
        )
    choices = iter(answers)
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
