"""Theorem T3: gated MLPs, y_n = σ(γ_n) υ_n, with interactions through the gate and the product.

γ is the gate's pre-activation, υ the linear path's; a path's `kept` value is that of the owner
alone, `reconstructed` that of all latents, `true` the model's. Everything is per token and neuron,
to be weighted by ‖o_n‖ or by |<u, o_n>|.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.interactions.gated import GatedTerms, gated_terms
from crossproof.lm.activation import Activation
from crossproof.lm.constants import LIPSCHITZ, activation_slack, lipschitz
from crossproof.proof.bounds.additive import additive_error
from crossproof.proof.bounds.preactivations import Preactivations
from crossproof.rounding import upward


def gated_interaction(
    activation: Activation,
    gate: Preactivations,
    linear: Preactivations,
    signed: bool = False,
    local: bool = False,
) -> GatedTerms:
    """T3: |σ(γ̂)υ̂ - σ(γ^d)υ^d| is at most `total`, d for the owner alone.

    `signed` charges |sum of the other contributions| instead of the sum of their magnitudes;
    `local` takes L on the interval from γ^d to γ̂. Without either, the total is `interaction` of
    `crossproof.interactions`, before the weights ‖o_n‖.
    """
    g = gate.signed_rest.abs() if signed else gate.rest
    v = linear.signed_rest.abs() if signed else linear.rest
    slope = _slope(activation, gate, gate.kept, local)
    return _moved(activation, slope, (gate, gate.kept, g), (linear, linear.kept, v))


def gated_residual(
    activation: Activation, gate: Preactivations, linear: Preactivations, local: bool = False
) -> GatedTerms:
    """T3's residual: |σ(γ)υ - σ(γ̂)υ̂| is at most `total`; `local` takes L between γ̂ and γ."""
    slope = _slope(activation, gate, gate.true, local)
    moved = [(path, path.reconstructed, path.error) for path in (gate, linear)]
    return _moved(activation, slope, *moved)


def gated_gap(
    activation: Activation, gate: Preactivations, linear: Preactivations
) -> Float[Tensor, "B N"]:
    """δ_n ≥ |σ(γ)υ - σ(γ^d)υ^d|: local, signed interaction plus local residual.

    The interaction is the smaller of L g |υ^d| + |σ(γ̂)| l and L g |υ̂| + |σ(γ^d)| l, which drop
    T3's cross term by splitting the difference of products at either end.
    """
    moved = gated_interaction(activation, gate, linear, signed=True, local=True)
    slope = _slope(activation, gate, gate.kept, True)
    back = [(path, path.reconstructed, path.signed_rest.abs()) for path in (gate, linear)]
    swapped = _moved(activation, slope, *back)
    # Mixed ends: the gate's term at one end with the linear path's term at the other.
    sharp = torch.minimum(moved.gate + swapped.linear, swapped.gate + moved.linear)
    bound = sharp + gated_residual(activation, gate, linear, local=True).total
    # Zero where nothing moves or the gate stays shut; not where a product underflows.
    moves = (path.signed_rest.abs() + path.error for path in (gate, linear))
    opening = activation(gate.kept).abs() + activation(gate.reconstructed).abs()
    opening = opening + slope + _slope(activation, gate, gate.true, True)
    some = (bound > 0) | ((sum(moves) > 0) & (opening > 0))
    return torch.where(some, upward(bound, 16), 0)


def gated_additive_bound(
    activation: Activation,
    baselines: tuple[Float[Tensor, " N"], Float[Tensor, " N"]],
    p_gate: Float[Tensor, "B K N"],
    p_linear: Float[Tensor, "B K N"],
) -> Float[Tensor, "B N"]:
    """Bounds |E|, E = F(ẑ) - F(β) - sum_h (F(β + p_h) - F(β)) for F(γ, υ) = σ(γ) υ.

    |β^υ| |E^γ| + sum_h |p^υ_h| L_n |sum_{k≠h} p^γ_k|, from the identity
    E = β^υ E^γ + sum_h p^υ_h (σ(γ̂) - σ(β^γ + p^γ_h)); L_n is local to the gate's hull.
    `baselines` are (γ's, υ's).
    """
    base_gate, base_linear = baselines
    others = p_gate.sum(1, keepdim=True) - p_gate
    low, high = (base_gate + part.sum(1) for part in (p_gate.clamp_max(0), p_gate.clamp_min(0)))
    slope = lipschitz(activation, low, high)
    gate = additive_error(activation, base_gate, p_gate).abs()
    return base_linear.abs() * gate + slope * (p_linear.abs() * others.abs()).sum(1)


def _slope(activation: Activation, gate: Preactivations, end: Tensor, local: bool) -> Tensor:
    if not local:
        return torch.full_like(end, LIPSCHITZ[activation])
    return lipschitz(activation, *gate.between(gate.reconstructed, end))


_Move = tuple[Preactivations, Tensor, Tensor]
"""A path, where it starts, and how far it moves."""


def _moved(activation: Activation, slope: Tensor, gate: _Move, linear: _Move) -> GatedTerms:
    (gate_path, at_gate, g), (linear_path, at_linear, v) = gate, linear
    opening, value = activation(at_gate).abs(), at_linear.abs()
    if gate_path.slack is not None and linear_path.slack is not None:
        opening = opening + activation_slack(activation, at_gate, gate_path.slack)
        value, g, v = value + linear_path.slack, g + gate_path.slack, v + linear_path.slack
    return gated_terms(slope, opening, value, g, v)
