"""Sequences in batches with the code of their scored positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.lm.model import LanguageModel


@dataclass(frozen=True, eq=False)
class Coded:
    """Sequences [S, T], which of their positions are scored, and the latents of those B tokens."""

    first: int
    """Place of the batch's first sequence among all."""
    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    latents: SparseLatents

    @property
    def sequence(self) -> Int[Tensor, " B"]:
        """The row of `tokens` of each scored position."""
        return self.scored.nonzero()[:, 0]

    @property
    def position(self) -> Int[Tensor, " B"]:
        """The column of `tokens` of each scored position."""
        return self.scored.nonzero()[:, 1]

    def activations_of(self, latent: int) -> Float[Tensor, "S T"]:
        """One latent's activations; 0 where a position is not scored."""
        code = self.latents
        mask = code.indices == latent
        flat = code.values.new_zeros(code.n_tokens)
        flat[code.token_index[mask]] = code.values[mask]
        values = code.values.new_zeros(self.tokens.shape)
        values[self.scored] = flat
        return values


def codes(
    model: LanguageModel, crosscoder: Crosscoder, sequences: Int[Tensor, "S T"], batch: int
) -> Iterator[Coded]:
    """One batch of sequences after another, harvested and encoded."""
    for start in range(0, len(sequences), batch):
        tokens = sequences[start : start + batch].to(model.device)
        scored = scored_positions(tokens, model.special_ids).to(model.device)
        with torch.no_grad():
            x = model.activations(tokens, crosscoder.hookpoints.names)[scored]
            latents = crosscoder.encode(x.to(crosscoder.b_dec.dtype))
        yield Coded(start, tokens, scored, latents)
