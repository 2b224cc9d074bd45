"""Theorem T2.2: what treating latents as additive costs, neuron by neuron.

 E_n = σ(ẑ_n) - σ(β_n) - sum_h (σ(β_n + p_nh) - σ(β_n))

is zero wherever at most one latent acts on the neuron, and wherever σ is affine on the hull Q_n of
its pre-activations. Functions take p as [B, K, N] (`contributions`) and β as [N].
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.lm.activation import Activation
from crossproof.lm.constants import CURVATURE, oscillation
from crossproof.proof.bounds.dominant import residual_gap
from crossproof.proof.bounds.preactivations import Preactivations
from crossproof.rounding import upward


def additive_error(
    activation: Activation, baseline: Float[Tensor, " N"], p: Float[Tensor, "B K N"]
) -> Float[Tensor, "B N"]:
    """E_n, signed; exactly zero where at most one contribution is not."""
    whole = steps(activation, baseline, p.sum(1))
    error = whole - steps(activation, baseline, p).sum(1)
    return torch.where((p != 0).sum(1) > 1, error, 0)


def steps(
    activation: Activation, baseline: Float[Tensor, " N"], p: Float[Tensor, "*batch N"]
) -> Float[Tensor, "*batch N"]:
    """σ(β + p) - σ(β), exactly zero where p is.

    (Vectorised GELUs may differ in the last place between two equal arguments.)
    """
    return torch.where(p == 0, 0, activation(baseline + p) - activation(baseline))


def hull_oscillation(
    activation: Activation,
    baseline: Float[Tensor, " N"],
    p: Float[Tensor, "B K N"],
    slack: Float[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B N"]:
    """ω_n: the oscillation of σ' on Q_n, widened by `slack` on both sides."""
    low = baseline + p.clamp_max(0).sum(1)
    high = baseline + p.clamp_min(0).sum(1)
    if slack is not None:
        low, high = low - slack, high + slack
    return oscillation(activation, low, high)


def additive_bound(
    activation: Activation,
    baseline: Float[Tensor, " N"],
    p: Float[Tensor, "B K N"],
    slack: Float[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B N"]:
    """Bounds |E_n|: sum_{k≥2} min(ω_n |S_{k-1}|, ω_n |p_(k)|, M |S_{k-1}| |p_(k)|).

    p_(k) are the contributions by decreasing magnitude, S_k their partial sums; `slack` widens the
    hull that ω_n is taken on.
    """
    swing, bend = hull_oscillation(activation, baseline, p, slack), CURVATURE[activation]
    ordered = p.gather(1, p.abs().argsort(dim=1, descending=True, stable=True))
    later, before = ordered[:, 1:].abs(), ordered.cumsum(1)[:, :-1].abs()
    some = (before > 0) & (later > 0)  # of the factors: their product may underflow
    bent = torch.where(some, bend * (before * later), 0)  # 0 even for an infinite M
    bent = torch.where(some & bent.isnan(), math.inf, bent)  # infinite times what underflowed
    terms = torch.minimum(swing[:, None] * torch.minimum(before, later), bent).sum(1)
    lost = (some & (swing > 0)[:, None]).sum(1).to(terms) * torch.finfo(terms.dtype).tiny
    return terms + lost


def additive_gap(
    activation: Activation, path: Preactivations, p: Float[Tensor, "B K N"]
) -> Float[Tensor, "B N"]:
    """δ_n ≥ |σ(z_n) - (neuron n of MLP_add)|: the residual's part plus `additive_bound`.

    Rounding is covered if the path carries its slack.
    """
    additive = additive_bound(activation, path.baseline, p, path.slack)
    if path.slack is not None:
        swing = hull_oscillation(activation, path.baseline, p, path.slack)
        additive = additive + swing * p.shape[1] * path.slack
    bound = residual_gap(activation, path) + additive
    return torch.where(bound > 0, upward(bound, 4 * p.shape[1] + 8), 0)
