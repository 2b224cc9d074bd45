"""Per-sequence sums of everything measured; statistics are functions of their totals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.massive import NormSurvey
from crossproof.crosscoder.encode import EncodedBatch
from crossproof.evaluation.config import MIDS as MIDS
from crossproof.evaluation.config import EvaluationOptions as EvaluationOptions
from crossproof.interactions.views import MLPView

SHARE_BINS = 20
BEYOND = "-beyond"
"""Suffix of the sums behind FVU, over massive positions alone."""

SHARED = ("ce-zero", "kl-zero", "phi/exact_mid/mlp-removed")
"""Sums that do not depend on the crosscoder, but on its hookpoints and which positions count."""


@dataclass
class Tally:
    """Per-sequence sums of everything measured, and what is not per sequence."""

    views: Mapping[int, MLPView] = field(default_factory=dict)
    unread: str = ""
    """Why there are no views, if there are none."""
    unreplaced: str = ""
    """Why what a dictionary writes cannot take the model's place in one pass."""
    sums: defaultdict[str, list[NDArray[np.float64]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    kept: dict[int, list[NDArray[np.float64]]] = field(default_factory=dict)
    """By m, losses [S, L] of the first sequences where neurons keep m latents."""
    fired: Tensor | None = None
    histogram: Tensor | None = None
    survey: NormSurvey = field(default_factory=NormSurvey)
    """Norms in the first sequences: what is massive, and beyond what."""
    encoded: list[EncodedBatch] = field(default_factory=list)
    """The first sequences with their latents, without activations."""

    def add(self, name: str, value: Float[Tensor, "S *parts"]) -> None:
        """Appends one batch of per-sequence sums."""
        self.sums[name].append(value.detach().double().cpu().numpy())

    def rows(self) -> dict[str, Tensor]:
        """What depends on a slice of the text, for a file."""
        sums = {f"sums/{name}": np.concatenate(parts) for name, parts in self.sums.items()}
        kept = {f"kept/{m}": np.concatenate(parts) for m, parts in self.kept.items()}
        rows = {name: torch.from_numpy(values) for name, values in (sums | kept).items()}
        counts = {"fired": self.fired, "histogram": self.histogram}
        return rows | {name: counted for name, counted in counts.items() if counted is not None}

    def take(self, rows: Mapping[str, Tensor]) -> None:
        """Adds the next slice's rows."""
        for name, tensor in rows.items():
            kind, _, which = name.partition("/")
            if kind == "sums":
                self.sums[which].append(tensor.numpy())
            elif kind == "kept":
                self.kept.setdefault(int(which), []).append(tensor.numpy())
            elif kind == "fired":
                self.fired = tensor if self.fired is None else self.fired + tensor
            else:
                self.histogram = tensor if self.histogram is None else self.histogram + tensor
        self.kept = dict(sorted(self.kept.items()))

    def shared(self) -> dict[str, NDArray[np.float64]]:
        """Those of `SHARED` that were measured, for other crosscoders of the same hookpoints."""
        return {name: np.concatenate(self.sums[name]) for name in SHARED if name in self.sums}

    def joined(self) -> dict[str, NDArray[np.float64]]:
        """All sequences' sums by name, each [S, ...]; of massive positions if there are any."""
        sums = {name: np.concatenate(parts) for name, parts in self.sums.items()}
        if sums["tokens" + BEYOND].any():
            return sums
        return {name: value for name, value in sums.items() if not name.endswith(BEYOND)}
