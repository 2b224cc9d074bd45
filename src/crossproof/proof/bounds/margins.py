"""Theorem T4: from bounds on margins to certified cross-entropy and accuracy, and vacuity.

A margin m_yc = logit_y - logit_c is bounded below by μ_yc = (the abstract model's margin) minus
(what its neurons may be off by, through the functional u_y - u_c).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.lm.norms import Norm, margins_through_norm
from crossproof.proof.bounds.functionals import gram_bound, margin_bound
from crossproof.rounding import gamma


def label_margins(logits: Float[Tensor, "B V"], labels: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """logit_y - logit_c of every class c; 0 at the label itself."""
    return logits.gather(1, labels[:, None]) - logits


def certified_margins(
    abstract: Float[Tensor, "B V"],
    labels: Int[Tensor, " B"],
    delta: Float[Tensor, "B N"],
    readout: Float[Tensor, "N V"],
) -> Float[Tensor, "B V"]:
    """μ without a norm: margins of the abstract model's logits less sum_n |<u_yc, o_n>| δ_n.

    `abstract` are the logits of MLP_dom or MLP_add, skip path included; δ bounds the difference
    at each neuron; readout = W_out Uᵀ. 0 at the label itself.
    """
    return label_margins(abstract, labels) - margin_bound(delta, readout, labels)


def certified_margins_through_norm(
    norm: Norm,
    r: Float[Tensor, "B D"],
    labels: Int[Tensor, " B"],
    delta: Float[Tensor, "B N"],
    W_out: Float[Tensor, "N D"],
    unembedding: Float[Tensor, "V D"],
    unembedding_bias: Float[Tensor, " V"] | None = None,
) -> Float[Tensor, "B V"]:
    """μ of a model whose residual stream passes `norm` before U; 0 at the label itself.

    `r` is the abstract model's residual stream; the true one is r + sum_n o_n Δ_n, |Δ_n| ≤ δ_n.
    """
    directions = norm.directions(unembedding)
    least = label_margins(r @ directions.T, labels)
    least = least - margin_bound(delta, W_out @ directions.T, labels)
    offsets = norm.bias @ unembedding.T
    offsets = offsets if unembedding_bias is None else offsets + unembedding_bias
    shift = offsets[labels][:, None] - offsets
    scales = norm.scale_range(r, gram_bound(delta, W_out))
    return margins_through_norm(least, shift, scales, norm.width)


def cross_entropy_bound(mu: Float[Tensor, "B V"], labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """CE ≤ log(1 + sum over c other than y of e^{-μ_yc}), in nats, for margins of at least μ."""
    terms = (-mu).scatter(1, labels[:, None], 0.0)
    bound: Tensor = torch.logsumexp(terms, 1)
    # e^{t - max} is off by at most |t - max| e^{t - max} u < u, and the sum of them is at least 1.
    return bound + gamma(2 * mu.shape[1] + 64, mu.dtype) * (1 + bound.abs())


def certified_correct(mu: Float[Tensor, "B V"], labels: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Whether every margin but the label's own is proved to be above 0, strictly."""
    others = mu.scatter(1, labels[:, None], math.inf)
    return (others > 0).all(1)


@dataclass(frozen=True)
class Baselines:
    """What knowing only the labels' frequencies achieves: bounds that do no better are vacuous."""

    log_classes: float
    """log V, nats: the cross-entropy of guessing evenly."""
    unigram_entropy: float
    """Nats: the cross-entropy of always predicting the labels' frequencies."""
    majority: float
    """The accuracy of always predicting the most frequent label."""

    @classmethod
    def of(cls, labels: Int[Tensor, " B"], classes: int) -> Baselines:
        """From the labels of a data set; raises CrossproofError if there are none."""
        if not len(labels):
            raise CrossproofError("Baselines need at least one label; none were given.")
        share = torch.bincount(labels, minlength=classes).double() / len(labels)
        entropy = -torch.special.xlogy(share, share).sum()
        return cls(math.log(classes), entropy.item(), share.max().item())

    def cross_entropy_vacuous(self, bound: float) -> bool:
        """Whether an upper bound on the mean cross-entropy tells nothing about the model."""
        return not bound < min(self.log_classes, self.unigram_entropy)

    def accuracy_vacuous(self, bound: float) -> bool:
        """Whether a lower bound on the accuracy tells nothing about the model."""
        return not bound > self.majority
