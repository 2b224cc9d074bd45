"""From a similarity to clusters, and how stable they are."""

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

from crossproof.clusters.config import Algorithm as Algorithm
from crossproof.errors import CrossproofError

Labels = Int[Tensor, " R"]

LATENTS_A_CLUSTER = 6
"""Of agglomerative and spectral clustering, where no number of clusters is given."""
DAMPING = (0.5, 0.7, 0.9)
"""Of affinity propagation: tried in turn until it converges."""


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
    `LATENTS_A_CLUSTER` latents. Raises CrossproofError for fewer than 3 latents, values that are
    not finite, a similarity that is zero everywhere, and more clusters than latents.
    """
    values = _scaled(similarity)
    wanted = clusters or max(2, round(len(values) / LATENTS_A_CLUSTER))
    if not 2 <= wanted <= len(values):
        raise CrossproofError(
            f"{len(values)} latents cannot be divided into {wanted} clusters: give 2 to "
            f"{len(values)}."
        )
    if algorithm == "affinity":
        return _affinity(values, seed)
    if algorithm == "agglomerative":
        distance = 1 - values
        np.fill_diagonal(distance, 0)
        model = AgglomerativeClustering(wanted, metric="precomputed", linkage="average")
        return Partition(_by_size(model.fit_predict(distance)), True)
    spectral = SpectralClustering(wanted, affinity="precomputed", random_state=seed)
    # A trace of similarity between all keeps the graph in one piece, which the method assumes.
    connected = values.clip(min=0) + 1e-6
    np.fill_diagonal(connected, 1)
    return Partition(_by_size(spectral.fit_predict(connected)), True)


def agreement(partitions: Sequence[Partition]) -> float | None:
    """Mean adjusted Rand index over all two of them; None if there is only one."""
    scores = [
        adjusted_rand_score(a.labels.numpy(), b.labels.numpy())
        for a, b in itertools.combinations(partitions, 2)
    ]
    return float(np.mean(scores)) if scores else None


def _affinity(values: NDArray[np.float64], seed: int) -> Partition:
    found = None
    for damping in DAMPING:
        model = AffinityPropagation(
            damping=damping,
            max_iter=1000,
            preference=float(np.median(values[~np.eye(len(values), dtype=bool)])),
            affinity="precomputed",
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of not converging; it is in the answer
            labels = model.fit_predict(values)
        if (labels >= 0).all():
            found = labels
            if model.n_iter_ < model.max_iter:
                return Partition(_by_size(labels), True)
    if found is None:
        raise CrossproofError(
            "Affinity propagation found no clusters in this similarity: use --algorithm "
            "agglomerative or another --similarity."
        )
    return Partition(_by_size(found), False)


def _scaled(similarity: Float[Tensor, "R R"]) -> NDArray[np.float64]:
    values: NDArray[np.float64] = similarity.detach().cpu().double().numpy().copy()
    if len(values) < 3:
        raise CrossproofError(
            f"There are {len(values)} latents to cluster and at least 3 are needed: choose more."
        )
    if not np.isfinite(values).all():
        raise CrossproofError("The similarity has entries that are not finite: measure anew.")
    np.fill_diagonal(values, 0)
    largest = values.max()
    if largest <= 0:
        raise CrossproofError(
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
