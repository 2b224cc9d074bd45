"""From bounds on neurons to bounds on outputs, margins and the cross-entropy (T4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.kernels.torch_any import CHUNK_ELEMENTS
from crossproof.rounding import gamma, scaled, upward


def gram_bound(delta: Float[Tensor, "B N"], W_out: Float[Tensor, "N D"]) -> Float[Tensor, " B"]:
    """√(δᵀ|G|δ) with G = W_out W_outᵀ: bounds ‖sum_n o_n Δ_n‖, at most `triangle_bound`.

    Costs O(N²) a token; G is formed in slices.
    """
    # Scaled by powers of two, which changes no digit, so that no square underflows as a whole.
    (delta, row), (W_out, column) = scaled(delta, (1,)), scaled(W_out, (0, 1))
    step = max(1, CHUNK_ELEMENTS // max(len(W_out), 1))
    total = delta.new_zeros(len(delta))
    for low in range(0, len(W_out), step):
        part = slice(low, low + step)
        gram = (W_out[part] @ W_out.T).abs()
        # Rounding of <o_n, o_m> is at most γ_D ‖o_n‖‖o_m‖: what the triangle bound squared holds.
        total = total + (delta[:, part] * (delta @ gram.T)).sum(1)
    lost = gamma(2 * (sum(W_out.shape) + 8), delta.dtype) * (delta @ W_out.norm(dim=1)).square()
    lost = lost + W_out.numel() * len(W_out) * torch.finfo(lost.dtype).tiny
    return upward((total + lost).sqrt() * row[:, 0] * column[0])


def spectral_norm(W: Float[Tensor, "... N D"]) -> Float[Tensor, "..."]:
    """‖W‖₂ from a singular value decomposition, raised by the size of its backward error.

    The decomposition is LAPACK's and backward stable; the factor 8(N + D)u stands for its modest
    constant, which is not proved.
    """
    norm: Tensor = torch.linalg.matrix_norm(W, 2)
    return upward(norm, 8 * (W.shape[-1] + W.shape[-2]))


def label_margins(logits: Float[Tensor, "B V"], labels: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """logit_y - logit_c of every class c; 0 at the label itself."""
    return logits.gather(1, labels[:, None]) - logits


def cross_entropy_bound(mu: Float[Tensor, "B V"], labels: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """CE ≤ log(1 + sum over c other than y of e^{-μ_yc}), in nats, for margins of at least μ."""
    terms = (-mu).scatter(1, labels[:, None], 0.0)
    bound: Tensor = torch.logsumexp(terms, 1)
    # e^{t - max} is off by at most |t - max| e^{t - max} u < u, and the sum of them is at least 1.
    return bound + gamma(2 * mu.shape[1] + 64, mu.dtype) * (1 + bound.abs())


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
