"""The final norm: how far it can move margins when the residual stream moves in a ball (T4a)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.rounding import gamma


@dataclass(frozen=True, eq=False)
class Norm:
    """norm(r) = √D · weight ⊙ Pr / s(r) + bias, s(r) = √(‖Pr‖² + D·epsilon).

    P subtracts the mean over coordinates where `centred` (LayerNorm), and is the identity
    otherwise (RMSNorm).
    """

    weight: Float[Tensor, " D"]
    bias: Float[Tensor, " D"]
    epsilon: float
    centred: bool

    @property
    def width(self) -> int:
        """D."""
        return len(self.weight)

    def to(self, like: Tensor) -> Norm:
        """The same norm with the dtype and on the device of `like`."""
        return replace(self, weight=self.weight.to(like), bias=self.bias.to(like))

    def centre(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """P r."""
        return r - r.mean(-1, keepdim=True) if self.centred else r

    def scale(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """s(r)."""
        squared: Tensor = self.centre(r).square().sum(-1) + self.width * self.epsilon
        return squared.sqrt()

    def denominator(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """√(mean((P r)²) + ε), what it divides by."""
        return self.scale(r) / math.sqrt(self.width)

    def linear(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """weight ⊙ P r: norm(r) but for the denominator and the bias."""
        return self.weight * self.centre(r)

    def __call__(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """norm(r)."""
        direction = self.centre(r) / self.scale(r)[..., None]
        return math.sqrt(self.width) * self.weight * direction + self.bias

    def scale_range(
        self, r: Float[Tensor, "*batch D"], radius: Float[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """s_lo and s_hi: between which s lies on the ball of `radius` around r, rounded outward."""
        length, offset = self.centre(r).norm(dim=-1), self.width * self.epsilon
        lost = gamma(2 * self.width + 16, r.dtype)
        # Subtracting a mean cancels: its error is relative to r, not to Pr.
        blur = lost * r.norm(dim=-1)
        low = (length - radius - blur).clamp_min(0).square() + offset
        high = (length + radius + blur).square() + offset
        return low.sqrt() * (1 - lost), high.sqrt() * (1 + lost)

    def directions(self, unembedding: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        """P(weight ⊙ U_v): <ũ, r> √D / s + <bias, U_v> is the logit of v."""
        return self.centre(self.weight * unembedding)


@dataclass(frozen=True, eq=False)
class Unnormed(Norm):
    """Where there is none: r itself, over 1 (OLMo 2's MLPs read the stream as it is)."""

    @classmethod
    def of_width(cls, width: int) -> Unnormed:
        """In float64."""
        ones = torch.ones(width, dtype=torch.float64)
        return cls(ones, torch.zeros_like(ones), 0.0, centred=False)

    def scale(self, r: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
        """√D, whatever r is."""
        return torch.full_like(r[..., 0], math.sqrt(self.width))

    def scale_range(
        self, r: Float[Tensor, "*batch D"], radius: Float[Tensor, "*batch"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """√D at either end."""
        return self.scale(r), self.scale(r)


def margins_through_norm(
    least: Float[Tensor, "B V"],
    shift: Float[Tensor, "B V"],
    scales: tuple[Float[Tensor, " B"], Float[Tensor, " B"]],
    width: int,
) -> Float[Tensor, "B V"]:
    """μ = √D (A - α) / s + κ with the worse end of s ∈ [s_lo, s_hi]: a lower bound on margins.

    `least` is A - α (the least <ũ_y - ũ_c, r>), `shift` κ (differences of what biases add). μ > 0
    exactly where `correct_through_norm`.
    """
    low, high = scales
    worse = torch.where(least >= 0, high[:, None], low[:, None])
    return math.sqrt(width) * least / worse + shift


def correct_through_norm(
    least: Float[Tensor, "B V"],
    shift: Float[Tensor, "B V"],
    scales: tuple[Float[Tensor, " B"], Float[Tensor, " B"]],
    width: int,
) -> Float[Tensor, "B V"]:
    """√D (A - α) + min(s_lo κ, s_hi κ): its sign decides correctness.

    Without biases (κ = 0) it is the sign of A - α: the norm costs nothing for accuracy.
    """
    low, high = scales
    return math.sqrt(width) * least + torch.minimum(low[:, None] * shift, high[:, None] * shift)
