"""Attention: softmax is stable, and what it reads is linear in the values (THEORY 5)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.rounding import upward

EXACT = "donot_use_mm_for_euclid_dist"
"""torch.cdist by differences: its faster mode cancels."""


def variation_of_range(width: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """TV(A, Â) ≤ tanh(w/4) if every S_k - Ŝ_k lies in one interval of length w."""
    return upward(torch.tanh(width / 4), 16).clamp_max(1)


def variation_of_error(tau: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """TV(A, Â) ≤ tanh(τ/2) if |S_k - Ŝ_k| ≤ τ for every key."""
    return variation_of_range(2 * tau)


def functional_value_error(
    variation: Float[Tensor, "*batch"], values: Float[Tensor, "*batch J"]
) -> Float[Tensor, "*batch"]:
    """TV · range of <u, v_k>: bounds |<u, sum_k (A - Â)_k v_k>|. The range, not the norm."""
    return upward(variation * (values.amax(-1) - values.amin(-1)))


def value_residual(
    approximate: Float[Tensor, "*batch J"],
    variation: Float[Tensor, "*batch"],
    sizes: Float[Tensor, "*batch J"],
) -> Float[Tensor, "*batch"]:
    """Bounds sum_k A_k ‖W_OV ε_k‖, `sizes` being the norms: sum_k Â_k ‖W_OV ε_k‖ + TV · range."""
    average: Tensor = (approximate * sizes).sum(-1)
    return upward(average + functional_value_error(variation, sizes), sizes.shape[-1] + 8)
