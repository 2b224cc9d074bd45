"""Per-sequence sums of everything measured; statistics are functions of their totals."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.evaluation.schemes import SCHEMES

SHARE_BINS = 20
MIDS = ("exact_mid", "reconstructed_mid")


@dataclass(frozen=True)
class EvaluationOptions:
    """What `evaluate` measures and how."""

    batch_sequences: int = 8
    """Sequences a forward pass."""
    resamples: int = 1000
    """Bootstrap resamples of the sequences."""
    seed: int = 0
    """Of the bootstrap and of drop-random."""
    patch_hookpoints: bool = True
    """Measure CE and KL recovered with each hookpoint patched (two forward passes each)."""
    schemes: tuple[str, ...] = SCHEMES
    """Ablation schemes whose Φ is measured (a forward pass a scheme, block and mid); none: no Φ."""
    mids: tuple[str, ...] = MIDS
    """Which resid_mid the MLP's output is added to."""
    context_sequences: int = 64
    """Contexts of a few latents come from this many of the sequences at most."""
    latents: int = 6
    """How many latents to show with their contexts."""


@dataclass
class Tally:
    """Per-sequence sums of everything measured, and what is not per sequence."""

    sums: defaultdict[str, list[NDArray[np.float64]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    fired: Tensor | None = None
    histogram: Tensor | None = None
    encoded: list[EncodedBatch] = field(default_factory=list)
    """The first sequences with their latents, without activations."""

    def add(self, name: str, value: Float[Tensor, "S *parts"]) -> None:
        """Appends one batch of per-sequence sums."""
        self.sums[name].append(value.detach().double().cpu().numpy())

    def joined(self) -> dict[str, NDArray[np.float64]]:
        """All sequences' sums by name, each [S, ...]."""
        return {name: np.concatenate(parts) for name, parts in self.sums.items()}
