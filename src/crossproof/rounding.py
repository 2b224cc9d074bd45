"""A-priori rounding slack: what float64 arithmetic may be off by (THEORY section 8).

Certificates speak about the model in real arithmetic with the stored weights. A computed inner
product of length k differs from the real one by at most γ_k |x|ᵀ|y|, γ_k = k u / (1 - k u), for
any order of summation and with or without fused operations (Higham). One such term per product
is cheaper and safer than directed rounding of every operation.

Contributions p and baselines β are *numbers given to the theorems*: soundness never depends on how
they were rounded when they were made, only on how far their sum is from the model's own
pre-activation. So the only products of the model that need slack are x W_in and the output.

A product of two small numbers may underflow to 0 and still not be 0: whether a bound vanishes is
asked of its factors (`product_bound`), and what underflows is smaller than the smallest normal
number that `upward` adds. That holds for numbers of ordinary magnitude (1e-60 to 1e30, as in
certificates) where subnormal numbers are not flushed to zero.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError


def gamma(k: int, dtype: torch.dtype = torch.float64) -> float:
    """γ_k = k u / (1 - k u), rounded up; u is half the machine epsilon of `dtype`.

    Raises CrossproofError where k u is 1 or more: no bound exists.
    """
    roundoff = torch.finfo(dtype).eps / 2
    if not 0 <= k * roundoff < 1:
        raise CrossproofError(
            f"Sums of {k} terms have no rounding bound in {dtype}; use torch.float64."
        )
    return math.nextafter(k * roundoff / (1 - k * roundoff), math.inf)


def upward(bound: Float[Tensor, "*shape"], operations: int = 8) -> Float[Tensor, "*shape"]:
    """A non-negative `bound` raised by what `operations` roundings may have taken from it."""
    return bound * (1 + 2 * gamma(operations + 1, bound.dtype)) + torch.finfo(bound.dtype).tiny


def scaled(
    of: Float[Tensor, "*shape"], dims: tuple[int, ...]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*scale"]]:
    """`of` divided by a power of two near its largest entry along `dims`, and that power.

    No digit changes but of entries that underflow beside the largest.
    """
    largest = of.abs().amax(dim=dims, keepdim=True) if of.numel() else of.new_ones(len(of), 1)
    most = 1000 if of.dtype == torch.float64 else 120
    exponent = torch.frexp(largest).exponent.clamp(-most, most).to(of.dtype)
    return of * torch.exp2(-exponent), torch.exp2(exponent)


def length(of: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
    """‖·‖₂ of vectors whose squares may underflow: 0 only where every entry is."""
    even, power = scaled(of, (-1,))
    norm: Tensor = even.norm(dim=-1) * power[..., 0]
    return norm


def product_bound(
    *products: tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]], operations: int = 8
) -> Float[Tensor, "*shape"]:
    """Σ left · right of non-negative factors, rounded up; 0 only where every product has a zero."""
    total = torch.stack([left * right for left, right in products]).sum(0)
    some = torch.stack([(left > 0) & (right > 0) for left, right in products]).any(0)
    return torch.where(some, upward(total, operations), 0)


def product_slack(
    left: Float[Tensor, "*batch K"],
    right: Float[Tensor, "K F"],
    offset: Float[Tensor, " F"] | None = None,
) -> Float[Tensor, "*batch F"]:
    """An upper bound on the rounding error of `left @ right + offset`, entry by entry."""
    magnitude = left.abs() @ right.abs()
    if offset is not None:
        magnitude = magnitude + offset.abs()
    # The magnitudes are computed too: |fl(m) - m| ≤ γ m, hence the larger index.
    return upward(gamma(2 * left.shape[-1] + 4, left.dtype) * magnitude)
