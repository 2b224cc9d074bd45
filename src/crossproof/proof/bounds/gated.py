"""Theorem T3: gated MLPs, y_n = σ(γ_n) υ_n, with interactions through the gate and the product.

γ is the gate's pre-activation, υ the linear path's; a path's `kept` value is that of the owner
alone, `reconstructed` that of all latents, `true` the model's. Everything is per token and neuron,
to be weighted by ‖o_n‖ or by |<u, o_n>| (`functionals`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation
from crossproof.lm.constants import LIPSCHITZ, lipschitz, oscillation
from crossproof.proof.bounds.additive import additive_error, pairwise_minima
from crossproof.proof.bounds.paths import Path
from crossproof.rounding import activation_slack, upward


@dataclass(frozen=True, eq=False)
class GatedTerms:
    """What moving a neuron's gate by g and its linear path by l may change, in three parts."""

    gate: Float[Tensor, "B N"]
    """L |υ| g: the gate moves under the fixed linear value."""
    linear: Float[Tensor, "B N"]
    """|σ(γ)| l: the linear path moves behind the fixed gate."""
    both: Float[Tensor, "B N"]
    """L g l: one latent on the gate, another on the linear path."""

    @property
    def total(self) -> Float[Tensor, "B N"]:
        """The bound: the sum of the three."""
        return self.gate + self.linear + self.both


def gated_interaction(
    activation: Activation, gate: Path, linear: Path, signed: bool = False, local: bool = False
) -> GatedTerms:
    """T3: |σ(γ̂)υ̂ - σ(γ^d)υ^d| is at most `total`, d for the owner alone.

    `signed` charges |sum of the other contributions| instead of the sum of their magnitudes;
    `local` takes L on the interval from γ^d to γ̂. Without either, the total is `interaction` of
    `crossproof.interactions`, before the weights ‖o_n‖.
    """
    g = gate.signed_rest.abs() if signed else gate.rest
    v = linear.signed_rest.abs() if signed else linear.rest
    slope = _slope(activation, gate, gate.kept, local)
    return _terms(activation, slope, gate.kept, linear.kept, g, v, gate.slack, linear.slack)


def gated_residual(
    activation: Activation, gate: Path, linear: Path, local: bool = False
) -> GatedTerms:
    """T3's residual: |σ(γ)υ - σ(γ̂)υ̂| is at most `total`; `local` takes L between γ̂ and γ."""
    slope = _slope(activation, gate, gate.true, local)
    return _terms(
        activation,
        slope,
        gate.reconstructed,
        linear.reconstructed,
        *(gate.error, linear.error, gate.slack, linear.slack),
    )


def gated_gap(activation: Activation, gate: Path, linear: Path) -> Float[Tensor, "B N"]:
    """δ_n ≥ |σ(γ)υ - σ(γ^d)υ^d|: local, signed interaction plus local residual.

    The interaction is the smaller of L g |υ^d| + |σ(γ̂)| l and L g |υ̂| + |σ(γ^d)| l, which drop
    T3's cross term by splitting the difference of products at either end.
    """
    moved = gated_interaction(activation, gate, linear, signed=True, local=True)
    swapped = _terms(
        activation,
        _slope(activation, gate, gate.kept, True),
        gate.reconstructed,
        linear.reconstructed,
        *(gate.signed_rest.abs(), linear.signed_rest.abs(), gate.slack, linear.slack),
    )
    # Mixed ends: the gate's term at one end with the linear path's term at the other.
    sharp = torch.minimum(moved.gate + swapped.linear, swapped.gate + moved.linear)
    bound = sharp + gated_residual(activation, gate, linear, local=True).total
    return torch.where(bound > 0, upward(bound, 16), 0)


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


def gated_additive_bound(
    activation: Activation,
    baselines: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
    p_gate: Float[Tensor, "B K N"],
    p_linear: Float[Tensor, "B K N"],
) -> Float[Tensor, "B N"]:
    """Bounds |`gated_additive_error`|: |β^υ| |E^γ| + sum_h |p^υ_h| L_n |sum_{k≠h} p^γ_k|.

    From the identity E = β^υ E^γ + sum_h p^υ_h (σ(γ̂) - σ(β^γ + p^γ_h)); L_n is local to the gate's
    hull.
    """
    base_gate, base_linear = baselines
    others = p_gate.sum(1, keepdim=True) - p_gate
    slope = lipschitz(activation, *_hull(base_gate, p_gate))
    gate = additive_error(activation, base_gate, p_gate).abs()
    return base_linear.abs() * gate + slope * (p_linear.abs() * others.abs()).sum(1)


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


def _slope(activation: Activation, gate: Path, end: Tensor, local: bool) -> Tensor:
    if not local:
        return torch.full_like(end, LIPSCHITZ[activation])
    return lipschitz(activation, *gate.between(gate.reconstructed, end))


def _terms(
    activation: Activation,
    slope: Tensor,
    at_gate: Tensor,
    at_linear: Tensor,
    g: Tensor,
    v: Tensor,
    gate_slack: Tensor | None,
    linear_slack: Tensor | None,
) -> GatedTerms:
    opening, value = activation(at_gate).abs(), at_linear.abs()
    if gate_slack is not None and linear_slack is not None:
        opening = opening + activation_slack(activation, at_gate, gate_slack)
        value, g, v = value + linear_slack, g + gate_slack, v + linear_slack
    return GatedTerms(slope * value * g, opening * v, slope * g * v)
