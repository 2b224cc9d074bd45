"""Sparsity rules without a ReLU, whose latents may be negative: those of other libraries."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.sparsity import TopK, entries_above, k_and_groups


class SignedTopK(TopK):
    """The k largest pre-activations of each token and group as they are, negative ones too."""

    signed = True

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """The pre-activations themselves."""
        return entries


class AbsTopK(SignedTopK):
    """The k pre-activations of largest magnitude of each token and group, with their signs."""

    def _rank(self, pre: Tensor) -> Tensor:
        return pre.abs()


class SignedJumpReLU(nn.Module):
    """pre where pre > θ_h, whatever the sign of θ_h: latents between a negative θ and 0 are active.

    For dictionaries that were trained elsewhere: the thresholds are given, not learned.
    """

    signed = True
    threshold: Tensor

    def __init__(self, n_latents: int) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(n_latents))

    def select(self, pre: Float[Tensor, "B H"], training: bool = False) -> SparseLatents:
        """Entries above θ_h; in training as in inference."""
        return entries_above(pre, self.threshold)

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """The pre-activations themselves."""
        return entries


def signed_topk(config: CrosscoderConfig) -> SignedTopK:
    """Raises as `topk`."""
    return SignedTopK(*k_and_groups(config))


def abs_topk(config: CrosscoderConfig) -> AbsTopK:
    """Raises as `topk`."""
    return AbsTopK(*k_and_groups(config))


def signed_jumprelu(config: CrosscoderConfig) -> SignedJumpReLU:
    """With a threshold a latent, of any sign."""
    return SignedJumpReLU(config.n_latents)
