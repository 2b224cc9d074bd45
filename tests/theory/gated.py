"""Gated MLPs: the additive error itself, and the pair form Q of docs/theory/gated.md."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation
from crossproof.lm.constants import lipschitz, oscillation
from theory.additive import pairwise_minima


def gated_additive_error(
    activation: Activation,
    baselines: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
    p_gate: Float[Tensor, "B K N"],
    p_linear: Float[Tensor, "B K N"],
) -> Float[Tensor, "B N"]:
    """F(ẑ) - F(β) - sum_h (F(β + p_h) - F(β)) for F(γ, υ) = σ(γ) υ; baselines are (γ's, υ's)."""
    base_gate, base_linear = baselines
    base = activation(base_gate) * base_linear
    full = activation(base_gate + p_gate.sum(1)) * (base_linear + p_linear.sum(1))
    alone = activation(base_gate + p_gate) * (base_linear + p_linear)
    return full - base - (alone - base).sum(1)


def gated_pair_interactions(
    activation: Activation,
    baselines: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
    p_gate: Float[Tensor, "B K N"],
    p_linear: Float[Tensor, "B K N"],
    weights: Float[Tensor, " N"],
) -> Float[Tensor, "B K K"]:
    """Q^gated(h, k): sum_n w_n (|β^υ| ω_n min(|p^γ_h|, |p^γ_k|) + L_n (|p^γ_h p^υ_k| + ...)).

    The sum over pairs h < k bounds the weighted sum of |`gated_additive_error`| over neurons.
    Second differences are taken at the baseline, so |β^υ| stands where a bound of |υ| on the whole
    hull would do, and ω_n where sup |σ''| would be infinite for ReLU.
    """
    base_gate, base_linear = baselines
    hull = _hull(base_gate, p_gate)
    swing = base_linear.abs() * oscillation(activation, *hull) * weights
    slope = lipschitz(activation, *hull) * weights
    crossed = (p_gate.abs() * slope[:, None]) @ p_linear.abs().transpose(1, 2)
    off = 1 - torch.eye(p_gate.shape[1], device=p_gate.device, dtype=p_gate.dtype)
    return pairwise_minima(p_gate, swing) + (crossed + crossed.transpose(1, 2)) * off


def _hull(baseline: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    return baseline + p.clamp_max(0).sum(1), baseline + p.clamp_min(0).sum(1)
