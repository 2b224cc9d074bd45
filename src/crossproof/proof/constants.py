"""Constants of the activation functions and their derivatives on intervals (THEORY section 1)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation

LIPSCHITZ: dict[Activation, float] = {
    Activation.RELU: 1.0,
    Activation.GELU: 1.12890414518516,
    Activation.GELU_TANH: 1.12899306865878,
    Activation.SILU: 1.09983932012887,
    Activation.QUICK_GELU: 1.09983932012887,
    Activation.IDENTITY: 1.0,
}
"""L = sup |σ'|, rounded up. For xΦ(x), L = Φ(√2) + √2 φ(√2); the others have no closed form."""

CRITICAL: dict[Activation, float] = {
    Activation.GELU: math.sqrt(2),
    Activation.GELU_TANH: 1.4185040087908284,
    Activation.SILU: 2.3993572805154677,
    Activation.QUICK_GELU: 2.3993572805154677 / 1.702,
}
"""x* > 0 where σ' is largest; it is smallest, 1 - L, at -x*, and monotone between and beyond."""


def derivative(activation: Activation, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """σ'(x); of ReLU, 0 at and below 0 and 1 above."""
    match activation:
        case Activation.RELU:
            return (x > 0).to(x.dtype)
        case Activation.IDENTITY:
            return torch.ones_like(x)
        case Activation.GELU:
            density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            gelu: Tensor = torch.special.ndtr(x) + x * density
            return gelu
        case Activation.GELU_TANH:
            root, cubic = math.sqrt(2 / math.pi), 0.044715
            t = torch.tanh(root * (x + cubic * x**3))
            return (1 + t) / 2 + x / 2 * (1 - t * t) * root * (1 + 3 * cubic * x * x)
        case Activation.SILU:
            s = torch.sigmoid(x)
            return s + x * s * (1 - s)
        case Activation.QUICK_GELU:
            return derivative(Activation.SILU, 1.702 * x)


def oscillation(
    activation: Activation, low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """ω = sup σ' - inf σ' on [low, high]: zero where the neuron is affine (THEORY T2.2)."""
    if activation is Activation.IDENTITY:
        return torch.zeros_like(low)
    if activation is Activation.RELU:
        return ((low < 0) & (high > 0)).to(low.dtype)
    ends = derivative(activation, low), derivative(activation, high)
    top, bottom = torch.maximum(*ends), torch.minimum(*ends)
    peak, largest = CRITICAL[activation], LIPSCHITZ[activation]
    top = torch.where((low <= peak) & (peak <= high), largest, top)
    bottom = torch.where((low <= -peak) & (-peak <= high), 1 - largest, bottom)
    return top - bottom
