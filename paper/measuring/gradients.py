"""How hard an objective's penalties pull at a decoder: a measure of equal magnitude."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder import Crosscoder
from crossproof.lm import Hookpoints, LanguageModel, MLPWeights
from crossproof.training import Objective, Step, TargetMLP, penalties


def gradient_norms(
    crosscoder: Crosscoder,
    batch: Float[Tensor, "B P D"],
    mlps: Mapping[int, MLPWeights],
    objectives: Mapping[str, Objective],
    seed: int,
) -> dict[str, float]:
    """‖∂ penalties / ∂ W_dec‖ of each objective by name, as the trainer's optimiser would see it.

    `batch` holds raw activations; gradients are taken in scaled space, where training lives, over
    the decoder at all hookpoints. `seed` turns the rotated control's neurons as in training.
    """
    scaled = in_scaled_space(crosscoder, batch)
    sites = [TargetMLP.build(place, mlp, seed) for place, mlp in mlps.items()]
    x = batch * scaled.scale[:, None]
    norms = {}
    for name, objective in objectives.items():
        encoding = scaled.encode_training(x)
        step = Step.build(scaled, encoding, x, sites)
        weighted = [strength * value for _, strength, value in penalties(objective, step)]
        (gradient,) = torch.autograd.grad(torch.stack(weighted).sum(), scaled.W_dec)
        norms[name] = float(gradient.double().norm())
    return norms


@torch.no_grad()
def in_scaled_space(crosscoder: Crosscoder, batch: Float[Tensor, "B P D"]) -> Crosscoder:
    """The same function with its scale taken out of the weights again (saving folded it in)."""
    scaled = copy.deepcopy(crosscoder)
    scale = scaled.d_model**0.5 / batch.norm(dim=-1).median(0).values
    scaled.scale.mul_(scale)
    scaled.W_enc.div_(scale[:, None])
    scaled.W_dec.mul_(scale[:, None])
    scaled.b_dec.mul_(scale[:, None])
    return scaled


def mlps_by_hookpoint(model: LanguageModel, hookpoints: Hookpoints) -> dict[int, MLPWeights]:
    """The MLPs whose input is one of the hookpoints, by its index."""
    inputs = {block: hookpoints.blocks[block].mlp_in for block in hookpoints.mlp_blocks}
    return {at: model.mlp(block) for block, at in inputs.items() if at is not None}
