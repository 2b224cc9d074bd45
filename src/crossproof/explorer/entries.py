"""The active latents of a batch as flat arrays, with what stands around each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.explorer.strongest import WINDOW, Floats, Ints, first_largest, first_of_groups


@dataclass(frozen=True, eq=False)
class Entries:
    """Active latents in order of latent, row and column; rows count among all sequences."""

    latent: Ints
    sequence: Ints
    position: Ints
    value: Floats
    first: int
    """The batch's first sequence."""
    shape: tuple[int, int]
    """Sequences and tokens a sequence."""

    @classmethod
    def of(cls, batch: EncodedBatch) -> Entries:
        """Those of a batch whose activation is not zero."""
        active = batch.latents.values != 0
        token = batch.latents.token_index[active]
        latent = batch.latents.indices[active].cpu().numpy()
        row, column = batch.sequence[token].cpu().numpy(), batch.position[token].cpu().numpy()
        value = batch.latents.values[active].float().cpu().numpy()
        order = np.argsort(latent, kind="stable")
        rows = (row + batch.first)[order]
        shape = (len(batch.tokens), batch.tokens.shape[1])
        return cls(latent[order], rows, column[order], value[order], batch.first, shape)

    @cached_property
    def _places(self) -> Ints:
        return self.places(self.latent, self.sequence, self.position)

    def places(self, latent: Ints, sequence: Ints, position: Ints) -> Ints:
        """One ascending number for a latent, a sequence and a position."""
        rows, columns = self.shape
        return (latent * rows + sequence - self.first) * columns + position

    @cached_property
    def peaks(self) -> Ints:
        """Of each latent and sequence the entry that is largest by size, the first of equals."""
        return first_largest(np.abs(self.value), first_of_groups(self.latent, self.sequence))

    def around(self, latent: Ints, sequence: Ints, position: Ints) -> Floats:
        """Activations [n, WIDTH] of latents at the tokens about places; 0 where not active."""
        columns = position[:, None] + np.arange(-WINDOW, WINDOW + 1)
        inside = (columns >= 0) & (columns < self.shape[1])
        wanted = self.places(latent[:, None], sequence[:, None], columns.clip(0, self.shape[1] - 1))
        found: Floats = np.zeros(wanted.shape, dtype=np.float32)
        if len(self._places):
            at = np.searchsorted(self._places, wanted).clip(0, len(self._places) - 1)
            hit: NDArray[np.bool_] = inside & (self._places[at] == wanted)
            found[hit] = self.value[at[hit]]
        return found
