"""The interaction I(x) of a token and its differentiable mean, in O(active latents).

I(x) = sum_n ‖o_n‖ (sum_h |p_nh| - max_h |p_nh|)   (THEORY T1; the paper's error term)

The sum over h needs no (token, neuron) pairs: sum_n w_n sum_h |a_h G_hn| = sum_h |a_h| r_h with
r_h = sum_n w_n |G_hn|, computed once per block. Only the maximum looks at every (token, neuron),
over the active latents alone, and its gradient flows to one of them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary, magnitudes
from crossproof.interactions.gated import gated_terms
from crossproof.lm.constants import LIPSCHITZ, oscillation


def interaction(
    view: MLPDictionary,
    latents: SparseLatents,
    dominance: Dominance,
    weights: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, " B"]:
    """I(x) of each token; `weights` replaces the output norms ‖o_n‖ (ones: the paper's penalty).

    For a gated MLP it is the explicit bound of THEORY T3: with A the summed magnitudes of all
    latents but the dominant one on either path,
    w_n (L |υ_dom| A_gate + |σ(γ_dom)| A_linear + L A_gate A_linear).
    """
    weights = view.output_norms if weights is None else weights
    if view.G_gate is not None:
        return _gated_interaction(view, latents, dominance) @ weights
    detached = dominance.value.detach()
    arguments = view.G, detached, weights.detach(), dominance.owner, latents
    rest: Tensor = _Interaction.apply(latents.values, *arguments)
    return torch.where(latents.offsets.diff() > 1, rest, 0)  # exactly, not up to rounding


class _Interaction(torch.autograd.Function):
    """sum_h |a_h| r_h - sum_n w_n |p_n,i(n)| of each token, with r_h = sum_n w_n |G_hn|.

    The backward pass writes the gradient of the sum over G once and scatters the gradient of the
    maximum onto it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        activations: Tensor,
        G: Tensor,
        value: Tensor,
        weights: Tensor,
        owner: Tensor,
        latents: SparseLatents,
    ) -> Tensor:
        norms = G.abs() @ weights
        ctx.save_for_backward(activations, G, value, weights, owner, norms)
        ctx.latents = latents
        charged = activations.abs() * norms[latents.indices]
        total = charged.new_zeros(latents.n_tokens).index_add_(0, latents.token_index, charged)
        return total - value.abs() @ weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        activations, G, value, weights, owner, norms = ctx.saved_tensors
        latents: SparseLatents = ctx.latents
        at_entry = grad[latents.token_index]
        scale = norms.new_zeros(len(norms))
        scale.index_add_(0, latents.indices, at_entry * activations.abs())
        grad_G = torch.copysign(weights, G).mul_(scale[:, None])
        grad_best = torch.copysign(weights, value).mul_(-grad[:, None])
        arguments = latents.indices, activations, G, owner, grad_best
        grad_values, grad_G = kernels.dominant_backward(
            *arguments, lambda: latents.transposed, onto=grad_G
        )
        grad_values += at_entry * activations.sign() * norms[latents.indices]
        return grad_values, grad_G, None, None, None, None


def _gated_interaction(
    view: MLPDictionary, latents: SparseLatents, dominance: Dominance
) -> Float[Tensor, "B N"]:
    assert view.G_gate is not None
    assert view.baseline_gate is not None
    assert dominance.gate is not None
    slope = LIPSCHITZ[view.mlp.activation]
    rest_linear = magnitudes(latents, view.G) - dominance.value.abs()
    rest_gate = magnitudes(latents, view.G_gate) - dominance.gate.abs()
    linear = (view.baseline + dominance.value).abs()
    gate = view.mlp.activation(view.baseline_gate + dominance.gate).abs()
    return gated_terms(slope, gate, linear, rest_gate, rest_linear).total


def residual(
    view: MLPDictionary, x: Float[Tensor, "B D"], x_hat: Float[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """R(x) = L sum_n ‖o_n‖ |<w_n, x - x̂>|: what the reconstruction error costs (THEORY T1).

    For a gated MLP, T3's residual:
    sum_n ‖o_n‖ (L |υ̂| e_gate + |σ(γ̂)| e_linear + L e_gate e_linear).
    """
    mlp, slope = view.mlp, LIPSCHITZ[view.mlp.activation]
    x, x_hat = x.to(mlp.W_in.dtype), x_hat.to(mlp.W_in.dtype)
    linear = ((x - x_hat) @ mlp.W_in).abs()
    if mlp.W_gate is None or mlp.b_gate is None:
        return slope * (linear @ view.output_norms)
    gate = ((x - x_hat) @ mlp.W_gate).abs()
    value = (x_hat @ mlp.W_in + mlp.b_in).abs()
    opening = mlp.activation(x_hat @ mlp.W_gate + mlp.b_gate).abs()
    return gated_terms(slope, opening, value, gate, linear).total @ view.output_norms


def additive_interaction(
    view: MLPDictionary, latents: SparseLatents, dominance: Dominance
) -> Float[Tensor, " B"]:
    """J(x) = sum_n ‖o_n‖ ω_n sum_{j != i(n)} |p_nj| of a plain MLP (THEORY T2.2).

    ω_n is the oscillation of σ' on the hull of neuron n's pre-activations, so that J, unlike I,
    is zero for latents that a neuron simply adds up.
    """
    mlp = view.mlp.plain("The additive form J")
    swing = oscillation(mlp.activation, *view.hull(latents))
    rest = magnitudes(latents, view.G) - dominance.value.abs()
    return (swing * rest) @ view.output_norms


def dominant_share(
    view: MLPDictionary, latents: SparseLatents, dominance: Dominance
) -> Float[Tensor, "B N"]:
    """max_h |p_nh| / sum_h |p_nh| at each token and neuron; 1 where at most one latent acts.

    In a gated MLP magnitudes are summed over both paths.
    """
    total = magnitudes(latents, view.G)
    largest = dominance.value.abs()
    if view.G_gate is not None and dominance.gate is not None:
        total = total + magnitudes(latents, view.G_gate)
        largest = largest + dominance.gate.abs()
    return torch.where(total > 0, largest / total.clamp_min(torch.finfo(total.dtype).tiny), 1)
