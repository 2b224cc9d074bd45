"""Certified margins point by point: what a dictionary proves about inputs it has encoded.

An attribution, not a compact proof (THEORY T5): the activations of every point are given, and
rounding is not accounted for. It is what dictionaries are compared and chosen by; a `points`
certificate is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.proof.bounds import Network

CHUNK = 512
"""Points at a time: arrays [points, N, V] stay in the megabytes."""


@dataclass(frozen=True, eq=False)
class PointContributions:
    """What the K largest latents of every point (all that are active) add to every neuron."""

    p: Float[Tensor, "B N K"]
    """p_nh, in order of |p_nh|, largest first."""
    baseline: Float[Tensor, " N"]
    """β_n."""
    true: Float[Tensor, "B N"]
    """z_n, the pre-activation of the input itself."""

    @property
    def rebuilt(self) -> Float[Tensor, "B N"]:
        """ẑ_n."""
        return self.baseline + self.p.sum(2)

    @property
    def residual(self) -> Float[Tensor, "B N"]:
        """L_n e_n >= |relu(z) - relu(ẑ)|: |z - ẑ|, but 0 where neither is positive."""
        rebuilt = self.rebuilt
        return (self.true - rebuilt).abs() * (torch.maximum(self.true, rebuilt) > 0)


@dataclass(frozen=True, eq=False)
class AbstractNeurons:
    """Neurons of a simpler model, and between what bounds the true ones differ from them."""

    neurons: Float[Tensor, "B N"]
    low: Float[Tensor, "B N"]
    high: Float[Tensor, "B N"]


def contributions(
    network: Network,
    decoder: Float[Tensor, "H D"],
    bias: Float[Tensor, " D"],
    activations: Float[Tensor, "B H"],
    x: Float[Tensor, "B D"],
) -> PointContributions:
    """p, β and z of some points; any activations, decoder and bias are allowed."""
    active = max(1, int((activations != 0).sum(1).max()))
    which = activations.abs().topk(active, dim=1).indices
    p = (activations.gather(1, which)[..., None] * (decoder @ network.W_in)[which]).mT
    order = p.abs().argsort(dim=2, descending=True, stable=True)
    return PointContributions(
        p.gather(2, order), bias @ network.W_in + network.b_in, x @ network.W_in + network.b_in
    )


def dominant(given: PointContributions) -> AbstractNeurons:
    """T1: σ(β + p_i(n)), wrong by at most L_n (e_n + |Σ_{j≠i(n)} p_nj|)."""
    kept, rebuilt = given.baseline + given.p[..., 0], given.rebuilt
    slack = (given.true - rebuilt).abs() + (rebuilt - kept).abs()
    slack = slack * (torch.maximum(torch.maximum(given.true, rebuilt), kept) > 0)
    return AbstractNeurons(torch.relu(kept), -slack, slack)


def additive(given: PointContributions) -> AbstractNeurons:
    """T2.2: σ(β) + Σ_h (σ(β + p_h) - σ(β)), wrong by ω_n Σ_{k>=2} min(|S_{k-1}|, |p_(k)|)."""
    down, up = _second_differences(given)
    slack = down + up + given.residual
    return AbstractNeurons(_sum_of_curves(given), -slack, slack)


def signed(given: PointContributions) -> AbstractNeurons:
    """The same, with T2.3's signs: a second difference of a convex σ has the sign of S p."""
    down, up = _second_differences(given)
    slack = given.residual
    return AbstractNeurons(_sum_of_curves(given), -down - slack, up + slack)


def _sum_of_curves(given: PointContributions) -> Float[Tensor, "B N"]:
    resting = torch.relu(given.baseline)
    curves = torch.relu(given.baseline[:, None] + given.p) - resting[:, None]
    return resting + curves.sum(2)


def _second_differences(given: PointContributions) -> tuple[Tensor, Tensor]:
    """Bounds of the negative and of the positive part of E_n, each [B, N] and >= 0."""
    p, baseline = given.p, given.baseline
    before, step = p.cumsum(2)[..., :-1], p[..., 1:]
    low, high = baseline + p.clamp_max(0).sum(2), baseline + p.clamp_min(0).sum(2)
    swing = ((low < 0) & (high > 0)).to(p.dtype)[..., None]  # ω_n on the hull
    charge = swing * torch.minimum(before.abs(), step.abs())
    same = before * step > 0
    return (charge * ~same).sum(2), (charge * same).sum(2)


Engine = Callable[[PointContributions], AbstractNeurons]
ENGINES: dict[str, Engine] = {"dominant": dominant, "additive": additive, "signed": signed}


def margins(
    network: Network, x: Float[Tensor, "B D"], labels: Int[Tensor, " B"], abstract: AbstractNeurons
) -> Float[Tensor, "B V"]:
    """A lower bound of logit_label - logit_c for every class c; infinity at the label itself.

    The skip path is exact. For every margin the worst case over the box of neuron errors is
    attained at a corner (THEORY section 2, functional form).
    """
    logits = x @ network.skip + abstract.neurons @ network.W_out + network.b_out
    towards = network.W_out.T[labels][..., None] - network.W_out  # <u_yc, o_n>, [B, N, V]
    low, high = abstract.low[..., None], abstract.high[..., None]
    worst = torch.where(towards > 0, towards * low, towards * high).sum(1)
    margin = logits.gather(1, labels[:, None]) - logits + worst
    return margin.scatter(1, labels[:, None], torch.inf)


@dataclass(frozen=True)
class Certified:
    """What is proved on a sample."""

    accuracy: float
    """Share of points whose every margin is proved positive."""
    ce: float
    """Upper bound of the mean cross-entropy, nats: log(1 + Σ_c e^-μ_c)."""


@torch.no_grad()
def certify_sample(
    network: Network,
    decoder: Float[Tensor, "H D"],
    bias: Float[Tensor, " D"],
    activations: Float[Tensor, "T H"],
    x: Float[Tensor, "T D"],
    labels: Int[Tensor, " T"],
) -> dict[str, Certified]:
    """Certified accuracy and cross-entropy of T points, by engine."""
    found: dict[str, list[Tensor]] = {name: [] for name in ENGINES}
    for rows in torch.arange(len(x)).split(CHUNK):
        given = contributions(network, decoder, bias, activations[rows], x[rows])
        for name, engine in ENGINES.items():
            found[name].append(margins(network, x[rows], labels[rows], engine(given)))
    return {name: _summary(torch.cat(parts)) for name, parts in found.items()}


def _summary(margin: Float[Tensor, "T V"]) -> Certified:
    proved = (margin.amin(1) > 0).double().mean().item()
    ce = torch.nn.functional.softplus(torch.logsumexp(-margin, dim=1)).mean().item()
    return Certified(proved, ce)
