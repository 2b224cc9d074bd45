"""How hard an objective's penalties pull at a decoder: a measure of equal magnitude."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.lm.mlp import MLPWeights
from crossproof.training.objectives import Objective, penalties
from crossproof.training.step import Step, TargetMLP


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
    own = in_scaled_space(crosscoder, batch)
    sites = [TargetMLP.build(place, mlp, seed) for place, mlp in mlps.items()]
    x = batch * own.scale[:, None]
    found = {}
    for name, objective in objectives.items():
        encoding = own.encode_training(x.flatten(1))
        step = Step.build(own, encoding, x, sites)
        weighted = [strength * value for _, strength, value in penalties(objective, step)]
        (gradient,) = torch.autograd.grad(torch.stack(weighted).sum(), own.W_dec)
        found[name] = float(gradient.double().norm())
    return found


@torch.no_grad()
def in_scaled_space(crosscoder: Crosscoder, batch: Float[Tensor, "B P D"]) -> Crosscoder:
    """The same function with its scale taken out of the weights again (saving folded it in)."""
    own = copy.deepcopy(crosscoder)
    scale = own.d_model**0.5 / batch.norm(dim=-1).mean(0)
    own.scale.mul_(scale)
    own.W_enc.div_(scale[:, None])
    own.W_dec.mul_(scale[:, None])
    own.b_dec.mul_(scale[:, None])
    return own
