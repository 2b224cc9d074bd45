"""How well a ranking of pairs of features finds the planted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from paper.measuring.statistics import draws, percentiles
from paper.planted.world import KINDS, World

MATCHED = 0.7
"""Least cosine at which a latent's decoder vector counts as a feature's."""
RESAMPLES = 300


@dataclass(frozen=True, eq=False)
class Matching:
    """Which latent stands for each feature."""

    latent: Int[Tensor, " F"]
    found: Bool[Tensor, " F"]
    """Where the cosine of the two decoder vectors is at least `MATCHED`."""

    @classmethod
    def of(cls, features: Float[Tensor, "F D"], decoder: Float[Tensor, "H D"]) -> Matching:
        """The one-to-one matching of the largest sum of cosines (Hungarian method)."""
        from scipy.optimize import linear_sum_assignment  # takes half a second to import

        cosine = (normalize(features) @ normalize(decoder).T).clamp_min(0)
        rows, columns = linear_sum_assignment(-cosine.numpy())
        latent = torch.zeros(len(features), dtype=torch.int64)
        latent[rows] = torch.from_numpy(columns)
        found = torch.zeros(len(features), dtype=torch.bool)
        found[rows] = cosine[rows, columns] >= MATCHED
        return cls(latent, found)

    def of_features(self, scores: Float[Tensor, "H H"]) -> Float[Tensor, "F F"]:
        """Scores of pairs of latents as scores of pairs of features; zero where one is missing."""
        known = self.found[:, None] & self.found
        return torch.where(known, scores[self.latent[:, None], self.latent], 0.0)


def average_precisions(
    scores: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Average precision under each row of `weights` [R, M]; tied pairs come in together."""
    order = np.argsort(-scores, kind="stable")
    hits = positive[order]
    group = np.cumsum(np.diff(scores[order], prepend=np.nan) != 0)
    # Precision counts where a positive pair comes in: the end of its group of ties.
    ends = np.flatnonzero(np.isin(group, group[hits]) & np.append(np.diff(group) != 0, True)) + 1
    starts, ranked = np.append(0, ends[:-1]), weights[:, order[: ends[-1]]]
    named = np.cumsum(np.add.reduceat(ranked, starts, axis=1), axis=1)
    found = np.cumsum(np.add.reduceat(ranked * hits[: ends[-1]], starts, axis=1), axis=1)
    gained = np.diff(found, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        precision = np.where(named > 0, found / named, 0)
    result: NDArray[np.float64] = (gained * precision).sum(1) / found[:, -1]
    return result


def labels(world: World) -> NDArray[np.int64]:
    """For each pair of features h < k: the place of its kind in `KINDS`, or len(KINDS)."""
    features = world.recipe.features
    kinds = np.full((features, features), len(KINDS))
    for at, kind in enumerate(KINDS):
        first, second = world.planted[kind].T.numpy()
        kinds[first, second] = kinds[second, first] = at
    found: NDArray[np.int64] = kinds[np.triu_indices(features, 1)]
    return found


@dataclass(frozen=True, eq=False)
class Recovery:
    """One measure in one world."""

    resampled: NDArray[np.float64]
    """Average precision: as measured, then over resampled pairs, meeting ones and others apart."""
    leading: tuple[float, ...]
    """Of the first pairs, as many as meet: the shares of each kind, and of pairs not planted."""

    @classmethod
    def of(cls, matrix: Float[Tensor, "F F"], kinds: NDArray[np.int64], seed: int) -> Recovery:
        """Of a measure's scores of features."""
        features = len(matrix)
        scores = matrix.numpy()[np.triu_indices(features, 1)].round(12)
        positive = kinds == 0
        weights = _weights(positive.tobytes(), seed)
        first = np.argsort(-scores, kind="stable")[: positive.sum()]
        # A pair without a score is not named at all.
        named = kinds[first][scores[first] > 0]
        counts = np.bincount(named, minlength=len(KINDS) + 1) / len(first)
        return cls(average_precisions(scores, positive, weights), tuple(counts.tolist()))


@lru_cache(maxsize=8)
def _weights(positive: bytes, seed: int) -> NDArray[np.float64]:
    """How often each pair is drawn, of those that meet and of the others apart."""
    chosen = np.frombuffer(positive, dtype=np.bool_)
    weights = np.empty((1 + RESAMPLES, len(chosen)))
    for stream, part in enumerate((chosen, ~chosen)):
        weights[:, part] = draws(int(part.sum()), RESAMPLES, seed, stream)
    return weights


def estimate(seeds: Sequence[Recovery]) -> dict[str, Any]:
    """The mean average precision over seeds, its 95% interval over pairs and seeds, and leaders.

    Of S seeds S - 1 are drawn (decision 18).
    """
    count = len(seeds)
    chosen = np.random.default_rng(count).multinomial(
        max(count - 1, 1), np.full(count, 1 / count), size=RESAMPLES
    ) / max(count - 1, 1)
    weights = np.concatenate([np.full((1, count), 1 / count), chosen])
    values = np.stack([seed.resampled for seed in seeds], axis=1)
    together = (weights * values).sum(1)
    leading = np.mean([seed.leading for seed in seeds], axis=0)
    return {
        "mean": round(float(together[0]), 4),
        "ci": [round(end, 4) for end in percentiles(together)],
        "seeds": [round(float(seed.resampled[0]), 4) for seed in seeds],
        "leading": [round(float(share), 4) for share in leading],
    }
