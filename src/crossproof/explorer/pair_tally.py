"""Sums of pairs of latents over any length of text, in bounded memory.

All pairs are summed until there are `limit` of them. Then each latent keeps its strongest partners,
and only these pairs are summed over the rest: their figures are exact over the whole text, and what
can be missed is a pair that grows strong late.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crossproof import kernels
from crossproof.explorer.strongest import Ints
from crossproof.interactions.measuring import COLUMNS, TokenPairs

Doubles = NDArray[np.float64]
LIMIT = 2_500_000
"""Pairs that are kept at most."""
PARTNERS = 12
"""Partners of each latent that are kept, by each form."""
FIXED = 5
"""Columns of the forms, in the order of `interactions.measuring.COLUMNS`; I by block follows."""


@dataclass(eq=False)
class PairTally:
    """M pairs h < k as keys h·H + k, ascending; tokens with both active; sums [M, 5 + blocks]."""

    n_latents: int
    key: Ints
    coactive: Ints
    sums: Doubles
    complete: bool = True
    """Whether every pair that occurred is here."""

    @classmethod
    def empty(cls, n_latents: int, blocks: int) -> PairTally:
        """No pair yet."""
        none = np.zeros(0, dtype=np.int64)
        return cls(n_latents, none, none.copy(), np.zeros((0, FIXED + blocks)))

    def add(self, pairs: TokenPairs, limit: int = LIMIT) -> None:
        """Takes the pairs of a batch."""
        latents = pairs.latents
        directed = pairs.sums[..., COLUMNS["I"]].sum(2)
        columns = torch.cat([pairs.sums.sum(1), directed], 1)
        code = latents.offsets, pairs.starts, latents.indices
        found, together, table = kernels.pair_table(*code, columns, self.n_latents)
        h, k = found.cpu().numpy().astype(np.int64).T
        self._merge(h * self.n_latents + k, together.cpu().numpy(), table.cpu().numpy())
        if self.complete and len(self.key) > limit:
            self._keep(self.strongest(PARTNERS))
            self.complete = False

    def _merge(self, key: Ints, together: Ints, table: Doubles) -> None:
        at = np.searchsorted(self.key, key)
        known = np.zeros(len(key), dtype=np.bool_)
        inside = at < len(self.key)
        known[inside] = self.key[at[inside]] == key[inside]
        self.coactive[at[known]] += together[known]  # a batch holds a pair once
        self.sums[at[known]] += table[known]
        if self.complete and not known.all():
            fresh = ~known
            self.key = np.concatenate([self.key, key[fresh]])
            order = np.argsort(self.key, kind="stable")
            self.key = self.key[order]
            self.coactive = np.concatenate([self.coactive, together[fresh]])[order]
            self.sums = np.concatenate([self.sums, table[fresh]])[order]

    def _keep(self, rows: Ints) -> None:
        self.key, self.coactive = self.key[rows], self.coactive[rows]
        self.sums = self.sums[rows]

    def form(self, columns: tuple[int, ...]) -> Doubles:
        """A form of each pair, both directions together."""
        whole: Doubles = self.sums[:, columns].sum(1)
        return whole

    def strongest(self, count: int) -> Ints:
        """Rows of the pairs that are among the `count` strongest of one of their two, by any form.

        Ascending.
        """
        rows = [
            self.ranked(self.form(columns), count)[1] for columns in dict.fromkeys(COLUMNS.values())
        ]
        return np.unique(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64)

    def ranked(self, values: Doubles, count: int) -> tuple[Ints, Ints]:
        """Latents and rows of their `count` largest values, latent by latent, largest first."""
        h, k = np.divmod(self.key, self.n_latents)
        rows = np.tile(np.arange(len(self.key)), 2)
        latent = np.concatenate([h, k])
        present = values[rows] > 0
        rows, latent = rows[present], latent[present]
        order = np.lexsort((rows, -values[rows], latent))
        rows, latent = rows[order], latent[order]
        rank = np.arange(len(rows)) - np.searchsorted(latent, latent)
        kept = rank < count
        return latent[kept], rows[kept]
