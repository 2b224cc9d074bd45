"""Gated neurons, σ(γ) υ: what theorem T3 charges for moving them, and the pair form Q.

The one place where these formulas stand; penalty, pair sums, clusters and proofs call it. γ is the
gate's pre-activation, υ the linear path's. Source: docs/theory/gated.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation
from crossproof.lm.constants import lipschitz, oscillation


@dataclass(frozen=True, eq=False)
class GatedTerms:
    """What moving a neuron's gate by g and its linear path by l may change, in three parts."""

    gate: Float[Tensor, "*tokens N"]
    """L |υ| g: the gate moves under the fixed linear value."""
    linear: Float[Tensor, "*tokens N"]
    """|σ(γ)| l: the linear path moves behind the fixed gate."""
    both: Float[Tensor, "*tokens N"]
    """L g l: one latent on the gate, another on the linear path."""

    @property
    def alone(self) -> Float[Tensor, "*tokens N"]:
        """The terms in which one path moves."""
        return self.gate + self.linear

    @property
    def total(self) -> Float[Tensor, "*tokens N"]:
        """The bound: the sum of the three."""
        return self.gate + self.linear + self.both


def gated_terms(
    slope: float | Tensor, opening: Tensor, value: Tensor, gate: Tensor, linear: Tensor
) -> GatedTerms:
    """T3: |σ(γ + s) (υ + t) - σ(γ) υ| is at most `total` wherever |s| ≤ gate and |t| ≤ linear.

    `slope` is L, of the activation or of the interval between the two gates; `opening` is |σ(γ)|
    and `value` |υ|. All broadcast against each other.
    """
    return GatedTerms(slope * value * gate, opening * linear, slope * gate * linear)


def gated_pair_form(
    activation: Activation,
    baseline_gate: Float[Tensor, "*tokens N"],
    baseline: Float[Tensor, "*tokens N"],
    p_gate: Float[Tensor, "B K N"],
    p_linear: Float[Tensor, "B K N"],
    weights: Float[Tensor, " N"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B K K"]]:
    """Q(h,k) = Σ_n w_n (|β^υ| ω_n min(|p^γ_h|, |p^γ_k|) + L_n (|p^γ_h p^υ_k| + |p^γ_k p^υ_h|)).

    In two parts: what the smaller of two contributions is multiplied by at each neuron,
    w |β^υ| ω, and the sum of the products for every two of each token's K slots, h other than k.
    `weights` are w, such as ‖o_n‖. ω_n and L_n are the oscillation and the supremum of |σ'| on the
    gate's hull, so that Q is finite for every activation. It bounds Σ_n w_n |δ²_n(h,k)| at the
    baseline, the two latents being alone, and its sum over pairs h < k bounds Σ_n w_n |E_n|, E the
    error of the additive model.
    """
    low = baseline_gate + p_gate.clamp_max(0).sum(1)
    high = baseline_gate + p_gate.clamp_min(0).sum(1)
    swing = baseline.abs() * oscillation(activation, low, high) * weights
    slope = lipschitz(activation, low, high) * weights
    crossed = (p_gate.abs() * slope[:, None]) @ p_linear.abs().mT
    return swing, crossed + crossed.mT
