"""The one contract of all detectors, in the manner of scikit-learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

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
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in detectors}
    for reading in readings:
        for name, detector in detectors.items():
            found[name].append(detector.score(reading).detach().double().cpu().numpy())
    joined = {name: np.concatenate(parts) for name, parts in found.items() if parts}
    for name, scores in joined.items():
        if not np.isfinite(scores).all():
            raise CrossproofError(f"The detector '{name}' gives scores that are not finite.")
    return joined
