"""The dictionary's size and sparsity. Imports nothing that takes time, for the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CrosscoderConfig:
    """The dictionary's size and sparsity."""

    n_latents: int = 1024
    """Dictionary width H."""
    sparsity: str = "batch_topk"
    """Which latents are active: batch_topk, topk, relu (with an l1 objective), jumprelu, or
    another registered rule."""
    k: int = 16
    """Active latents a token (topk) or on average (batch_topk)."""
    groups: int = 1
    """Of topk: so many groups of latents, equally large, each with its own k."""
