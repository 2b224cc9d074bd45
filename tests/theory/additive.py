"""T2.2's looser forms, T2.3 and the additive model, as the theory states them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.lm.activation import Activation
from crossproof.lm.constants import CURVATURE
from crossproof.proof.bounds.additive import additive_bound, additive_error, hull_oscillation, steps
from crossproof.proof.bounds.preactivations import contributions


@dataclass(frozen=True, eq=False)
class AdditiveBounds:
    """Upper bounds on |E_n| at each token and neuron."""

    sharp: Float[Tensor, "B N"]
    """sum_{k≥2} min(ω_n |S_{k-1}|, ω_n |p_(k)|, M |S_{k-1}| |p_(k)|): below `ordered`, `curved`."""
    ordered: Float[Tensor, "B N"]
    """ω_n sum_{k≥2} min(|S_{k-1}|, |p_(k)|), p sorted by decreasing magnitude."""
    rest: Float[Tensor, "B N"]
    """ω_n sum of |p_nj| over j other than i(n): the expression of T1."""
    pairs: Float[Tensor, "B N"]
    """ω_n sum_{h<k} min(|p_h|, |p_k|)."""
    curved: Float[Tensor, "B N"]
    """M sum_{h<k} |p_h| |p_k|; infinite for ReLU where two latents act."""


def additive_bounds(
    activation: Activation,
    baseline: Float[Tensor, " N"],
    p: Float[Tensor, "B K N"],
    slack: Float[Tensor, "B N"] | None = None,
) -> AdditiveBounds:
    """Every form of T2.2 at each token and neuron; `slack` widens the hull that ω_n is taken on."""
    swing, bend = hull_oscillation(activation, baseline, p, slack), CURVATURE[activation]
    ordered = p.gather(1, p.abs().argsort(dim=1, descending=True, stable=True))
    later, size = ordered[:, 1:], ordered.abs()
    before = ordered.cumsum(1)[:, :-1].abs()
    magnitude_before = size.cumsum(1)[:, :-1]
    ranks = torch.arange(1, max(p.shape[1], 1), device=p.device, dtype=p.dtype)[:, None]
    minima = torch.minimum(before, later.abs())
    return AdditiveBounds(
        sharp=additive_bound(activation, baseline, p, slack),
        ordered=swing * minima.sum(1),
        rest=swing * later.abs().sum(1),
        pairs=swing * (ranks * later.abs()).sum(1),
        curved=_bend(bend, magnitude_before, later.abs()).sum(1),
    )


def _bend(bend: float, one: Tensor, other: Tensor) -> Tensor:
    """M |s| |t|, and 0 where s or t is, even for an infinite M."""
    product = one * other
    return torch.where(product > 0, bend * product, 0)


def pair_interactions(
    activation: Activation,
    baseline: Float[Tensor, " N"],
    p: Float[Tensor, "B K N"],
    weights: Float[Tensor, " N"],
) -> Float[Tensor, "B K K"]:
    """Q(h, k) = sum_n w_n ω_n min(|p_nh|, |p_nk|) of each token's slots h and k; 0 for h = k.

    Symmetric, unlike I(i, j). `weights` are ‖o_n‖, or |<u, o_n>| for a functional u. The sum over
    pairs h < k bounds what non-additivity does to the output.
    """
    return pairwise_minima(p, hull_oscillation(activation, baseline, p) * weights)


def pairwise_minima(
    p: Float[Tensor, "B K N"], weights: Float[Tensor, "B N"]
) -> Float[Tensor, "B K K"]:
    """sum_n w_n min(|p_nh|, |p_nk|) for all pairs of slots, one row of pairs at a time."""
    size = p.abs()
    rows = [
        (torch.minimum(size, size[:, slot, None]) * weights[:, None]).sum(2)
        for slot in range(p.shape[1])
    ]
    out = torch.stack(rows, 1) if rows else p.new_zeros(len(p), 0, 0)
    return out * (1 - torch.eye(p.shape[1], device=p.device, dtype=p.dtype))


def additive_output(view: MLPDictionary, latents: SparseLatents) -> Float[Tensor, "B D"]:
    """MLP_add: every latent moves every neuron from its baseline as if it were alone there.

    Raises CrossproofError for a gated MLP.
    """
    mlp = view.mlp.plain("The additive output")
    moved = steps(mlp.activation, view.baseline, contributions(latents, view.G)).sum(1)
    return (mlp.activation(view.baseline) + moved) @ mlp.W_out + mlp.b_out


def curves(
    view: MLPDictionary, latents: Int[Tensor, " F"], activations: Float[Tensor, " A"]
) -> Float[Tensor, "F A D"]:
    """f_h(a) = sum_n o_n (σ(β_n + a g_nh) - σ(β_n)) of each named latent at each activation.

    MLP_add is b_out + sum_n o_n σ(β_n) + the sum of the active latents' curves. Curves of logits
    are these times Uᵀ. Raises CrossproofError for a gated MLP or an unknown latent.
    """
    mlp = view.mlp.plain("A latent's curve")
    if len(latents) and not 0 <= int(latents.min()) <= int(latents.max()) < len(view.G):
        raise CrossproofError(
            f"A curve was asked for latent {int(latents.max())}; the dictionary has "
            f"latents 0 to {len(view.G) - 1}."
        )
    p = activations[:, None] * view.G[latents, None]
    return steps(mlp.activation, view.baseline, p) @ mlp.W_out


def convex_range(
    activation: Activation,
    baseline: Float[Tensor, " N"],
    p_low: Float[Tensor, "B K N"],
    p_high: Float[Tensor, "B K N"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """The least and the largest E_n on a box of activations, for convex σ (T2.3 and its extension).

    `p_low` and `p_high` are the contributions at the box's lower and upper ends. With P and -Q the
    sums of the positive and the negative ones, E_n = E(positive) + E(negative) + δ²(P, -Q): the
    first two are ≥ 0 and grow with the activations, the third is ≤ 0 and falls. With two active
    latents, or with contributions of one sign, the range is exact. Raises CrossproofError unless σ
    is convex (ReLU, identity), or if the box is not one of non-negative activations.
    """
    if activation not in (Activation.RELU, Activation.IDENTITY):
        raise CrossproofError(
            f"{activation.value} is not convex; use additive_bounds, or a ReLU network."
        )
    if bool((p_low * p_high < 0).any()) or bool((p_low.abs() > p_high.abs()).any()):
        raise CrossproofError(
            "A box of contributions must keep every sign and not shrink: activations run from "
            "low ≥ 0 to high ≥ low."
        )
    same_low, cross_low = _split(activation, baseline, p_low)
    same_high, cross_high = _split(activation, baseline, p_high)
    return same_low + cross_high, same_high + cross_low


def _split(activation: Activation, baseline: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """E of the positive plus E of the negative contributions, and δ² of the two sums."""
    up, down = p.clamp_min(0), p.clamp_max(0)
    same = additive_error(activation, baseline, up) + additive_error(activation, baseline, down)
    return same, additive_error(activation, baseline, torch.stack([up.sum(1), down.sum(1)], 1))
