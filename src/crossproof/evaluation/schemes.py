"""Ablation schemes: which contributions reach each neuron."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents
from crossproof.evaluation.config import SCHEMES as SCHEMES
from crossproof.interactions.contributions import Dominance, MLPDictionary


@dataclass(frozen=True)
class Ablation:
    """What one scheme lets through: contributions summed at each token and neuron."""

    scheme: str
    value: Float[Tensor, "B N"]
    gate: Float[Tensor, "B N"] | None


def ablations(
    view: MLPDictionary, latents: SparseLatents, draw: Float[Tensor, "B N"]
) -> Iterator[Ablation]:
    """Every scheme of `SCHEMES`, at one MLP; `draw`, uniform in [0, 1), picks drop-random's."""
    value, gate = view.sums(latents)
    dominant = view.dominance(latents)
    yield Ablation("none", value, gate)
    drops = {
        "drop-random": view.dominance_of(latents, _random_owner(latents, draw)),
        "drop-second": view.dominance_of(latents, _second_owner(view, latents, dominant)),
        "drop-largest": dominant,
    }
    for scheme, dropped in drops.items():
        rest = None if gate is None or dropped.gate is None else gate - dropped.gate
        yield Ablation(scheme, value - dropped.value, rest)
    yield Ablation("keep-largest", dominant.value, dominant.gate)


def _second_owner(
    view: MLPDictionary, latents: SparseLatents, dominant: Dominance
) -> Int[Tensor, "B N"]:
    weights = view.G if view.G_gate is None else view.G.abs() + view.G_gate.abs()
    entries = latents.offsets, latents.indices, latents.values
    return kernels.dominant(*entries, weights, excluded=dominant.owner)[1]


def _random_owner(latents: SparseLatents, draw: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
    counts, starts = latents.offsets.diff()[:, None], latents.offsets[:-1, None]
    slot = (draw * counts).long().clamp_max(counts - 1)
    return torch.where(counts > 0, starts + slot, -1).to(torch.int32)
