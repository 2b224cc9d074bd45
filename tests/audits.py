"""Readings made by hand for tests of the audit: tokens, codes and activations without a model."""

from __future__ import annotations

import torch
from dictionaries import random_mlp
from torch import Tensor

from crossproof.auditing.readings import TextReading
from crossproof.crosscoder import SparseLatents
from crossproof.interactions import MLPDictionary
from crossproof.lm import Activation, MLPWeights

LATENTS, WIDTH, HOOKPOINTS = 12, 5, 3


def views(seed: int = 0, gated: bool = False, blocks: int = 2) -> dict[int, MLPDictionary]:
    """A dictionary as the MLPs of two blocks see it, float32."""
    generator = torch.Generator().manual_seed(seed)
    kind = Activation.SILU if gated else Activation.GELU
    found = {}
    for block in range(blocks):
        mlp: MLPWeights = random_mlp(kind, gated, generator, WIDTH, 16, torch.float32)
        decoder = torch.randn(LATENTS, WIDTH, generator=generator)
        found[block] = MLPDictionary.build(mlp, decoder, torch.randn(WIDTH, generator=generator))
    return found


def reading(
    codes: Tensor,
    lengths: list[int],
    mlps: dict[int, MLPDictionary] | None = None,
    x: Tensor | None = None,
    ids: Tensor | None = None,
    seed: int = 0,
) -> TextReading:
    """Texts of the given lengths with dense codes [B, H]; token 0 pads and begins them."""
    generator = torch.Generator().manual_seed(seed)
    total, longest = sum(lengths), max(lengths)
    x = torch.randn(total, HOOKPOINTS, WIDTH, generator=generator) if x is None else x
    ids = torch.randint(1, 9, (total,), generator=generator) if ids is None else ids
    tokens = torch.zeros(len(lengths), longest + 1, dtype=torch.int64)
    scored = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, length in enumerate(lengths):
        scored[row, 1 : length + 1] = True
    tokens[scored] = ids
    noise = torch.randn(x.shape, generator=generator)
    losses = torch.rand(total, generator=generator)
    return TextReading(
        0,
        tokens,
        scored,
        x,
        SparseLatents.from_dense(codes),
        {},
        x + 0.1 * noise,
        losses,
        views() if mlps is None else mlps,
    )


def random_codes(tokens: int, seed: int = 0, latents: int = LATENTS, active: int = 4) -> Tensor:
    """Codes with `active` of the first `latents` latents at every token."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(tokens, latents, generator=generator).argsort(1)[:, :active]
    values = 0.5 + torch.rand(tokens, active, generator=generator)
    return torch.zeros(tokens, LATENTS).scatter_(1, order, values)
