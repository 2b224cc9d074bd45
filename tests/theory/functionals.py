"""Bounds on outputs from bounds on neurons: norms, functionals, certified margins (T4, T4a).

If |Δ_n| ≤ δ_n is all that is known, then for a linear functional u the supremum of
|<u, sum_n o_n Δ_n>| is sum_n |<u, o_n>| δ_n exactly (the support function of a zonotope), and no
norm of the output gives less. A margin m_yc = logit_y - logit_c is bounded below by μ_yc = (the
abstract model's margin) minus what its neurons may be off by, through the functional u_y - u_c.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.kernels.torch_any import CHUNK_ELEMENTS
from crossproof.lm.norms import Norm, margins_through_norm
from crossproof.proof.bounds.outputs import gram_bound, label_margins, spectral_norm
from crossproof.rounding import upward


def functional_bound(
    delta: Float[Tensor, "B N"], readout: Float[Tensor, "N F"]
) -> Float[Tensor, "B F"]:
    """sup |<u_f, sum_n o_n Δ_n>| over |Δ_n| ≤ δ_n, with readout[n, f] = <u_f, o_n>.

    The readout counts as exact. Where it was computed, its own rounding is one more functional:
    add `functional_bound(delta, product_slack(W_out, Uᵀ))`.
    """
    return upward(delta @ readout.abs(), len(readout) + 8)


def margin_bound(
    delta: Float[Tensor, "B N"], readout: Float[Tensor, "N V"], labels: Int[Tensor, " B"]
) -> Float[Tensor, "B V"]:
    """sup |<u_y - u_c, sum_n o_n Δ_n>| for each token's label y and every class c; 0 at c = y.

    readout = W_out Uᵀ, folded once. Differences of rows are formed for one label at a time and a
    slice of classes, never for all pairs of classes.
    """
    neurons, classes = readout.shape
    step = max(1, CHUNK_ELEMENTS // max(neurons, 1))
    out = delta.new_zeros(len(delta), classes)
    for label in labels.unique().tolist():
        chosen = (labels == label).nonzero()[:, 0]
        own = readout[:, label, None]
        for low in range(0, classes, step):
            part = slice(low, low + step)
            out[chosen, part] = delta[chosen] @ (own - readout[:, part]).abs()
    out[torch.arange(len(labels), device=out.device), labels] = 0
    return torch.where(out > 0, upward(out, neurons + 8), 0)


def triangle_bound(delta: Float[Tensor, "B N"], W_out: Float[Tensor, "N D"]) -> Float[Tensor, " B"]:
    """sum_n ‖o_n‖ δ_n: bounds ‖sum_n o_n Δ_n‖, loosely where output columns are not parallel."""
    return upward(delta @ W_out.norm(dim=1), sum(W_out.shape) + 8)


def spectral_bound(delta: Float[Tensor, "B N"], W_out: Float[Tensor, "N D"]) -> Float[Tensor, " B"]:
    """‖W_out‖₂ ‖δ‖₂; neither above nor below `triangle_bound` in general."""
    return upward(spectral_norm(W_out) * delta.norm(dim=1), delta.shape[1] + 8)


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


def certified_correct(mu: Float[Tensor, "B V"], labels: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
    """Whether every margin but the label's own is proved to be above 0, strictly."""
    others = mu.scatter(1, labels[:, None], math.inf)
    return (others > 0).all(1)
