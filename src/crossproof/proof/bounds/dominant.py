"""Theorems T1 and T1c: what a neuron loses when only the largest contributions reach it.

T1 charges the loss by its absolute value. T1c gives its first-order part exactly,

 σ(z) - σ(z') = s (z - z') + r,   |r| ≤ (ω_J / 2) |z - z'|

for z, z' in an interval J on which σ' lies in [l, h], s = (l + h)/2, ω_J = h - l. The first-order
parts of all neurons add up with their signs and so cancel where the neurons themselves do; only r
is charged by its absolute value. Since |s| + ω_J/2 is L_J, no functional is bounded worse than by
T1 on the same J.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation
from crossproof.lm.constants import lipschitz, slope_range
from crossproof.proof.bounds.preactivations import Preactivations
from crossproof.rounding import product_bound, upward


def dominant_gap(activation: Activation, path: Preactivations) -> Float[Tensor, "B N"]:
    """δ_n ≥ |σ(z_n) - σ(ẑ^dom_n)| without evaluating σ: L' e_n + L'' |s_n|.

    L' is local to the interval from z to ẑ and L'' to that from ẑ to ẑ^dom, so δ_n is at most T1's
    L_n (e_n + |s_n|). Rounding is covered if the path carries its slack.
    """
    error, rest = path.error, path.signed_rest.abs()
    if path.slack is not None:
        rest = rest + path.slack
    first = lipschitz(activation, *path.between(path.true, path.reconstructed))
    second = lipschitz(activation, *path.between(path.reconstructed, path.kept))
    return product_bound((first, error), (second, rest))


def residual_gap(activation: Activation, path: Preactivations) -> Float[Tensor, "B N"]:
    """δ_n ≥ |σ(z_n) - σ(ẑ_n)|: L' e_n, what the residual alone costs."""
    slope = lipschitz(activation, *path.between(path.true, path.reconstructed))
    return product_bound((slope, path.error))


@dataclass(frozen=True, eq=False)
class Centred:
    """σ(z_n) - σ(ẑ^dom_n), up to `gap`."""

    step: Float[Tensor, "B N"]
    """s_n (z_n - ẑ^dom_n), signed."""
    gap: Float[Tensor, "B N"]
    """Bounds |σ(z_n) - σ(ẑ^dom_n) - step|."""


def centred_slope(
    activation: Activation, low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """s, the middle of σ' on [low, high], and half its oscillation there, rounded up.

    Both are exact where a ReLU is affine on the interval: s is 0 or 1 and the half is 0.
    """
    bottom, top = slope_range(activation, low, high)
    slope = (bottom + top) / 2
    return slope, torch.maximum(top - slope, slope - bottom)


def centred_gap(activation: Activation, path: Preactivations) -> Centred:
    """T1c between the model's pre-activation and the kept one, J the interval between them.

    Rounding is covered if the path carries its slack.
    """
    moved = path.true - path.kept
    slope, half = centred_slope(activation, *path.between(path.true, path.kept))
    step, gap = slope * moved, half * moved.abs()
    if path.slack is not None:
        gap = gap + (half + slope.abs()) * path.slack
        gap = gap + 4 * torch.finfo(step.dtype).eps * step.abs()
    some = (gap > 0) | ((half > 0) & (moved != 0))
    return Centred(step, torch.where(some, upward(gap), 0))
