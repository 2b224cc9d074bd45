"""Constants of the activation functions and their derivatives on intervals (THEORY section 1).

Every bound of this package is a product of these numbers, so each is rounded outward: suprema up,
infima down. Values that are computed here (σ' at the ends of an interval) carry an absolute slack
of `ROUNDING` machine epsilons of their dtype. It covers what erf, exp and tanh of the platform's
libm may be off by, a few units in the last place each, and the operations around them; the tests
compare with ball arithmetic.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation
from crossproof.rounding import upward

ACTIVATION_ROUNDING = 8
"""Machine epsilons, relative to |x|, by which a computed σ(x) may be wrong."""

LIPSCHITZ: dict[Activation, float] = {
    Activation.RELU: 1.0,
    Activation.GELU: 1.12890414518516,
    Activation.GELU_TANH: 1.12899306865878,
    Activation.SILU: 1.09983932012887,
    Activation.QUICK_GELU: 1.09983932012887,
    Activation.IDENTITY: 1.0,
}
"""L = sup |σ'|, rounded up. For xΦ(x), L = Φ(√2) + √2 φ(√2); the others have no closed form."""

CURVATURE: dict[Activation, float] = {
    Activation.RELU: math.inf,
    Activation.GELU: 0.797884560802866,
    Activation.GELU_TANH: 0.797884560802866,
    Activation.SILU: 0.5,
    Activation.QUICK_GELU: 0.8510000000000001,
    Activation.IDENTITY: 0.0,
}
"""M = sup |σ''|, rounded up: attained at 0, √(2/π) for both GELUs; ReLU has a kink."""

CRITICAL: dict[Activation, float] = {
    Activation.GELU: math.sqrt(2),
    Activation.GELU_TANH: 1.4185040087908284,
    Activation.SILU: 2.3993572805154677,
    Activation.QUICK_GELU: 2.3993572805154677 / 1.702,
}
"""x* > 0 where σ' is largest; it is smallest, 1 - L, at -x*, and monotone between and beyond."""

ROUNDING = 32
"""Machine epsilons by which a computed σ' may be wrong."""

SATURATED = 800.0
"""Beyond it σ' is 0 or 1 in any float; clamping there keeps squares and infinities harmless."""


def derivative(activation: Activation, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """σ'(x), within `ROUNDING` machine epsilons; of ReLU, 0 at and below 0 and 1 above."""
    if activation is Activation.RELU:
        return (x > 0).to(x.dtype)
    if activation is Activation.IDENTITY:
        return torch.ones_like(x)
    x = x.clamp(-SATURATED, SATURATED)
    if activation is Activation.GELU:
        density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        gelu: Tensor = torch.special.ndtr(x) + x * density
        return gelu
    # The others are x s(u(x)) with s the logistic function, s' = s(u) s(-u); 1 - s would cancel.
    if activation is Activation.GELU_TANH:
        root, cubic = math.sqrt(8 / math.pi), 0.044715
        u, slope = root * (x + cubic * x**3), root * (1 + 3 * cubic * x * x)
    else:
        rate = 1.702 if activation is Activation.QUICK_GELU else 1.0
        u, slope = rate * x, torch.full_like(x, rate)
    gate = torch.sigmoid(u)
    return gate + x * slope * gate * torch.sigmoid(-u)


def slope_range(
    activation: Activation, low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """inf σ' and sup σ' on [low, high], rounded outward.

    σ' is monotone between its critical points ±x*, so its extremes are at the ends, or L at x*, or
    1 - L at -x*. For ReLU they are exact (almost everywhere; 0 and 0 on the single point 0).
    """
    if activation is Activation.IDENTITY:
        return torch.ones_like(low), torch.ones_like(low)
    if activation is Activation.RELU:
        on = high > 0
        return (on & (low >= 0)).to(low.dtype), on.to(low.dtype)
    epsilon = torch.finfo(low.dtype).eps
    ends = derivative(activation, low), derivative(activation, high)
    largest = LIPSCHITZ[activation] * (1 + epsilon)  # above L in any dtype
    least = (1 - LIPSCHITZ[activation]) * (1 + epsilon)
    top = (torch.maximum(*ends) + ROUNDING * epsilon).clamp_max(largest)
    bottom = (torch.minimum(*ends) - ROUNDING * epsilon).clamp_min(least)
    peak = CRITICAL[activation]
    top = torch.where((low <= peak) & (peak <= high), largest, top)
    bottom = torch.where((low <= -peak) & (-peak <= high), least, bottom)
    return bottom, top


def lipschitz(
    activation: Activation, low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """L_n = sup |σ'| on [low, high], rounded up; at most the global L (within one rounding)."""
    bottom, top = slope_range(activation, low, high)
    return torch.maximum(top, -bottom)


def oscillation(
    activation: Activation, low: Float[Tensor, "*shape"], high: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """ω = sup σ' - inf σ' on [low, high], rounded up: zero where a ReLU is affine (T2.2)."""
    bottom, top = slope_range(activation, low, high)
    return top - bottom


def activation_slack(
    activation: Activation, x: Float[Tensor, "*shape"], error: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """|fl σ(x) - σ(x')| for any x' within `error` of x: L·error and what libm may be off by."""
    exact = activation in (Activation.RELU, Activation.IDENTITY)
    own = 0.0 if exact else ACTIVATION_ROUNDING * torch.finfo(x.dtype).eps
    return upward(LIPSCHITZ[activation] * error + own * x.abs())
