"""`Reading`: a text with its code in memory, so that contexts and counts need one pass only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel

PARTS = ("explain shown", "explain options", "judge shown", "judge options", "score")
"""What a text is dealt out to, sequence by sequence. No sequence serves two purposes, and what is
shown of a cluster never comes from the sequences that its candidate members are shown on: latents
active together would otherwise be recognised by their common text."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Sequences [S, T], which positions are scored, and the latents of those B positions."""

    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    latents: SparseLatents

    @classmethod
    def read(
        cls,
        model: LanguageModel,
        crosscoder: Crosscoder,
        sequences: Int[Tensor, "S T"],
        batch_sequences: int = 16,
        progress: Callable[[int, int], None] | None = None,
    ) -> Reading:
        """One pass of the model; memory grows with the active latents, not with D or H."""
        found: list[EncodedBatch] = []
        for batch in encode_batches(model, crosscoder, sequences, batch_sequences):
            found.append(batch)
            if progress is not None:
                progress(batch.first + len(batch.tokens), len(sequences))
        if not found:
            raise CrossproofError("There is no text to read: give at least one sequence.")
        together = _joined([batch.latents for batch in found])
        tokens = torch.cat([batch.tokens for batch in found]).cpu()
        return cls(tokens, torch.cat([batch.scored for batch in found]).cpu(), together)

    @cached_property
    def places(self) -> Int[Tensor, "B 2"]:
        """Sequence and position of each scored token."""
        return self.scored.nonzero()

    @cached_property
    def active(self) -> Int[Tensor, " H"]:
        """Tokens at which each latent is active."""
        return torch.bincount(self.latents.indices, minlength=self.latents.n_latents)

    def entries_of(self, latent: int) -> tuple[Int[Tensor, "A 2"], Float[Tensor, " A"]]:
        """Where a latent is active (sequence and position), and how strongly."""
        offsets, tokens, order = self.latents.transposed
        span = slice(int(offsets[latent]), int(offsets[latent + 1]))
        return self.places[tokens[span]], self.latents.values[order[span]]

    def active_sequences(self) -> Int[Tensor, " H"]:
        """Sequences in which each latent is active anywhere."""
        sequence = self.places[self.latents.token_index, 0]
        keys = torch.unique(self.latents.indices * len(self.tokens) + sequence)
        return torch.bincount(keys // len(self.tokens), minlength=self.latents.n_latents)


def deal(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Reading]:
    """`sequences` dealt out to PARTS in turn and read.

    Raises CrossproofError if there are fewer sequences than parts.
    """
    if len(sequences) < len(PARTS):
        raise CrossproofError(
            f"{len(sequences)} sequences cannot be dealt out to {len(PARTS)} purposes: give more "
            f"--tokens or a smaller --context."
        )
    readings, done = {}, 0
    for place, part in enumerate(PARTS):
        own = sequences[place :: len(PARTS)]

        def tell(read: int, _total: int, before: int = done) -> None:
            if progress is not None:
                progress(before + read, len(sequences))

        readings[part] = Reading.read(model, crosscoder, own, progress=tell)
        done += len(own)
    return readings


def _joined(parts: list[SparseLatents]) -> SparseLatents:
    counts = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    indices = torch.cat([part.indices for part in parts])
    values = torch.cat([part.values for part in parts])
    return SparseLatents(offsets.cpu(), indices.cpu(), values.cpu(), parts[0].n_latents)
