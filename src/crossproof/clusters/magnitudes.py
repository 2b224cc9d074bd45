"""How much two latents interact beyond what their magnitudes predict.

A loud latent interacts strongly with whatever is active beside it. The model of that is
S_hk = c_hk · ℓ_h · ℓ_k · e^{r_hk}: c the tokens at which both are active, one loudness ℓ a latent.
What it predicts contains the co-activation and nothing about the pair; the remainder r is what the
pair's vectors, and the neurons they meet in, add to it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

Square = Float[Tensor, "R R"]

LEAST_TOGETHER = 5
"""Tokens of co-activation below which a pair's remainder is noise, and is taken to be 0."""
MOST_WEIGHT = 100.0
"""A pair's weight in the fit is its tokens of co-activation, up to this many."""
ROUNDS = 100


def from_magnitudes(values: Square, together: Square) -> Square:
    """c_hk ℓ_h ℓ_k for all pairs that were ever active together, 0 for others."""
    loudness = log_loudness(values, together)
    predicted = together * torch.exp(loudness[:, None] + loudness)
    return torch.where(together > 0, predicted, 0).fill_diagonal_(0)


def beyond(values: Square, together: Square) -> Square:
    """r_hk = log S_hk - log(c_hk ℓ_h ℓ_k) where it is positive and the pair is not rare; else 0."""
    kept = _usable(values, together)
    predicted = from_magnitudes(values, together)
    ratio = torch.where(kept, values / predicted.clamp_min(1e-300), 1.0)
    return ratio.log().clamp_min(0)


def log_loudness(values: Square, together: Square) -> Float[Tensor, " R"]:
    """log ℓ by weighted least squares over pairs that are not rare; 0 for latents without any."""
    kept = _usable(values, together)
    weights = torch.where(kept, together.clamp_max(MOST_WEIGHT), 0)
    rates = torch.where(kept, (values / together.clamp_min(1)).clamp_min(1e-300).log(), 0)
    below = weights.sum(1)
    found = torch.zeros(len(values), dtype=torch.float64)
    for _ in range(ROUNDS):  # half of each Jacobi step: whole ones may oscillate
        wanted = (weights * (rates - found)).sum(1) / below.clamp_min(1e-300)
        found = torch.where(below > 0, (found + wanted) / 2, 0)
    return found


def _usable(values: Square, together: Square) -> Tensor:
    kept: Tensor = (values > 0) & (together >= LEAST_TOGETHER)
    return kept.fill_diagonal_(False)
