"""The odd-one-in task, and the random clusters that it is also asked about.

A cluster is shown by some of its members; of five candidates exactly one is another member. The
other four are latents of other clusters with nearly the same frequency, so that nothing but the
meaning tells them apart. Candidates are drawn in the same way for every clustering.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

Control = Literal["clusters", "random", "random, matched"]
CONTROLS: tuple[Control, ...] = ("clusters", "random", "random, matched")
"""The clusters themselves; random ones of the same sizes; the same, matched in frequency."""
OPTIONS = 5
CHANCE = 1 / OPTIONS
SHOWN = 4
"""Members that show the cluster, at most."""
NEIGHBOURS = 20
"""Distractors are drawn from so many latents that are nearest in frequency."""
BIN = 10
"""Latents of near frequency among which frequency-matched random clusters exchange members."""


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
