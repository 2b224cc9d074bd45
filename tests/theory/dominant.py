"""Theorem T1: what keeping one latent per neuron costs, as a ladder of bounds.

 ‖MLP(x) - MLP_dom‖ = B0 ≤ G1 ≤ B1 ≤ B2 ≤ B3 ≤ B4 = R + L·I(x)

with Δ_n = σ(z_n) - σ(ẑ^dom_n), e_n = |z_n - ẑ_n| and s_n = sum of p_nj over j other than i(n).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.lm.constants import LIPSCHITZ, lipschitz
from crossproof.lm.mlp import MLPWeights
from crossproof.proof.bounds.outputs import gram_bound, spectral_norm
from crossproof.proof.bounds.preactivations import linear_path
from crossproof.rounding import upward
from theory.functionals import spectral_bound


@dataclass(frozen=True, eq=False)
class Ladder:
    """Bounds on ‖MLP(x) - MLP_dom‖ of each token, in the units of the residual stream."""

    B0: Float[Tensor, " B"]
    """The error itself, ‖sum_n o_n Δ_n‖."""
    G1: Float[Tensor, " B"]
    """√(Dᵀ|G|D) with D = |Δ|, G = W_out W_outᵀ."""
    B1: Float[Tensor, " B"]
    """sum ‖o_n‖ |Δ_n|."""
    B2: Float[Tensor, " B"]
    """sum ‖o_n‖ L_n (e_n + |s_n|), L_n local to J_n."""
    B3: Float[Tensor, " B"]
    """L sum ‖o_n‖ (e_n + |s_n|)."""
    B4: Float[Tensor, " B"]
    """R + L·I(x), the paper's form."""
    S1: Float[Tensor, " B"]
    """‖W_out‖₂ ‖Δ‖₂: above B0, not comparable with B1."""
    residual: Float[Tensor, " B"]
    """R = L sum ‖o_n‖ e_n."""
    interaction: Float[Tensor, " B"]
    """I(x) = sum ‖o_n‖ sum of |p_nj| over j other than i(n)."""


def dominant_ladder(
    view: MLPDictionary,
    latents: SparseLatents,
    x: Float[Tensor, "B D"] | None = None,
    dominance: Dominance | None = None,
) -> Ladder:
    """Every rung of T1 at each token; without `x` the residual is zero.

    Raises CrossproofError for a gated MLP, whose bounds are in `gated`.
    """
    mlp = view.mlp.plain("The ladder of bounds")
    path = linear_path(view, latents, x, dominance)
    gaps = mlp.activation(path.true) - mlp.activation(path.kept)
    norms, slope = view.output_norms, LIPSCHITZ[mlp.activation]
    moved = path.error + path.signed_rest.abs()
    points = torch.stack([path.true, path.reconstructed, path.kept])
    local = lipschitz(mlp.activation, points.amin(0), points.amax(0))
    residual, interaction = slope * (path.error @ norms), path.rest @ norms
    return Ladder(
        B0=(gaps @ mlp.W_out).norm(dim=1),
        G1=gram_bound(gaps.abs(), mlp.W_out),
        B1=gaps.abs() @ norms,
        B2=(local * moved) @ norms,
        B3=slope * (moved @ norms),
        B4=residual + slope * interaction,
        S1=spectral_bound(gaps.abs(), mlp.W_out),
        residual=residual,
        interaction=interaction,
    )


def spectral_residuals(
    mlp: MLPWeights, error: Float[Tensor, "B D"]
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """L ‖W_out‖₂ ‖W_in ε‖ and L ‖W_out‖₂ ‖W_in‖₂ ‖ε‖ of a plain MLP, the second above the first.

    Both bound ‖MLP(x) - MLP(x̂)‖, ε = x - x̂, like R; the first can be below R, or above.
    """
    plain = mlp.plain("A spectral residual")
    outer = LIPSCHITZ[plain.activation] * spectral_norm(plain.W_out)
    first = outer * (error @ plain.W_in).norm(dim=1)
    second = outer * spectral_norm(plain.W_in) * error.norm(dim=1)
    return upward(first, sum(plain.W_in.shape)), upward(second, sum(plain.W_in.shape))
