"""The one contract of all detectors, in the manner of scikit-learn, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from crossproof.auditing.config import DETECTORS, check_detector
from crossproof.auditing.detectors.pairs import PairGaussian, PairSurprise
from crossproof.auditing.detectors.tokens import NUMBERS, TokenNumber, TokenRarity
from crossproof.auditing.detectors.vectors import LatentGaussian, LatentSurprise, Mahalanobis
from crossproof.auditing.readings import TextReading
from crossproof.errors import CrossproofError

LEAST = 20
"""Trusted texts that a detector needs at least."""


@runtime_checkable
class Detector(Protocol):
    """Parameters are given to the constructor; what is learned is kept in attributes `name_`.

    A detector sees trusted texts only when it is fitted, and never an answer of the model: the
    texts that it is given are prompts.
    """

    def fit(self, trusted: Sequence[TextReading]) -> Detector:
        """Learns what trusted texts are like."""
        ...

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        """One number a text; larger is more anomalous."""
        ...


def fit_all(detectors: Mapping[str, Detector], trusted: Sequence[TextReading]) -> None:
    """Fits all on the same readings. Raises CrossproofError for too few texts."""
    texts = sum(len(reading.tokens) for reading in trusted)
    if texts < LEAST:
        raise CrossproofError(
            f"There are {texts} trusted texts, too few to know what is usual; give at least "
            f"{LEAST}."
        )
    for detector in detectors.values():
        detector.fit(trusted)


def score_all(
    detectors: Mapping[str, Detector], readings: Iterable[TextReading]
) -> dict[str, NDArray[np.float64]]:
    """Scores of every text by every fitted detector, in one pass over the readings.

    Raises CrossproofError if a score is NaN or infinite.
    """
    scores_by_batch: dict[str, list[NDArray[np.float64]]] = {name: [] for name in detectors}
    for reading in readings:
        for name, detector in detectors.items():
            scores = detector.score(reading).detach().double().cpu().numpy()
            scores_by_batch[name].append(scores)
    joined = {name: np.concatenate(parts) for name, parts in scores_by_batch.items() if parts}
    for name, scores in joined.items():
        if not np.isfinite(scores).all():
            raise CrossproofError(f"The detector '{name}' gives scores that are not finite.")
    return joined


MAKERS: dict[str, Callable[..., Detector]] = {
    **{number: partial(TokenNumber, number) for number in NUMBERS},
    "I pairs": partial(PairSurprise, "I"),
    "Shapley-Taylor": partial(PairSurprise, "shapley"),
    "pairs": partial(PairSurprise, "coactivation"),
    "latents": LatentSurprise,
    "Mahalanobis": Mahalanobis,
    "rarity": TokenRarity,
}
"""By what stands before "max" or "mean" in a name; given that word."""
SUMS: dict[str, Callable[[], Detector]] = {
    "I sums": partial(PairGaussian, "I"),
    "Shapley-Taylor sums": partial(PairGaussian, "shapley"),
    "latents sums": LatentGaussian,
}


def detectors(names: Sequence[str] | None = None, gated: bool = False) -> dict[str, Detector]:
    """Fresh detectors by name; None: all that exist for these MLPs (J needs plain ones).

    Raises CrossproofError for an unknown name.
    """
    made: dict[str, Detector] = {}
    for name in DETECTORS if names is None else names:
        check_detector(name)
        number, _, pooling = name.rpartition(" ")
        if not (gated and number == "J"):
            made[name] = SUMS[name]() if name in SUMS else MAKERS[number](pooling)
    return made
