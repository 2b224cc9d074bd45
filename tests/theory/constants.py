"""Global constants of the activations that no bound needs: their local forms ship."""

from __future__ import annotations

import math

from crossproof.lm.activation import Activation
from crossproof.lm.constants import LIPSCHITZ

OSCILLATION: dict[Activation, float] = {
    activation: {Activation.RELU: 1.0, Activation.IDENTITY: 0.0}.get(activation, 2 * L - 1)
    for activation, L in LIPSCHITZ.items()
}
"""ω = sup σ' - inf σ', rounded up; 2L - 1 because σ'(x) + σ'(-x) = 1 (2L - 1 is exact here)."""

MINIMUM: dict[Activation, float] = {
    Activation.RELU: 0.0,
    Activation.GELU: -0.169971207479904,
    Activation.GELU_TANH: -0.170040750571255,
    Activation.SILU: -0.278464542761074,
    Activation.QUICK_GELU: -0.163610189636354,
    Activation.IDENTITY: -math.inf,
}
"""min σ, rounded down."""
