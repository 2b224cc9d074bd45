"""Sums of pairs of latents over a text, in bounded memory.

All pairs are summed until there are too many of them. Then each latent keeps its strongest
partners, and a pair that goes closes both its latents: from then on no pair of two closed latents
is begun, for it may have been one that went. What is in the table is therefore exact over the whole
text, and what can be missed is a pair of frequent latents that grows strong late.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossproof.explorer.sorted_keys import Among, places
from crossproof.explorer.strongest import Ints, first_of_groups
from crossproof.interactions.measuring import COLUMNS, TokenPairs

Bools = NDArray[np.bool_]
Doubles = NDArray[np.float64]
LIMIT, LIMIT_A_LATENT = 2_000_000, 40
"""Pairs that are kept at most, whichever is more: in all, and for each latent."""
PARTNERS = 12
"""Partners of each latent that are kept, by each form."""
FIXED = 5
"""Columns of the forms, in the order of `interactions.measuring.COLUMNS`; I by block follows."""
AT_ONCE = 1 << 19
"""Pairs at tokens that are added up together."""
_SLOTS = 25
"""Bits of a key's place among the marks that tell of most pairs that they are not in the table."""


@dataclass(eq=False)
class PairTally:
    """M pairs h < k as keys h·H + k, ascending; of each its tokens, and 5 + blocks sums."""

    key: Ints
    coactive: Ints
    """Tokens with both active."""
    columns: list[Doubles]
    """[M] each: apart, so that a new pair never takes the memory of the table a second time."""
    closed: Bools
    """[H] latents of which a pair has gone."""
    waiting: list[tuple[Ints, Doubles]] = field(default_factory=list)
    """Pairs at tokens, and their columns, that are not in the table yet."""
    _marks: Bools | None = None

    @classmethod
    def empty(cls, n_latents: int, blocks: int) -> PairTally:
        """No pair yet."""
        none, closed = np.zeros(0, dtype=np.int64), np.zeros(n_latents, dtype=np.bool_)
        return cls(none, none.copy(), [np.zeros(0) for _ in range(FIXED + blocks)], closed)

    @property
    def n_latents(self) -> int:
        """H."""
        return len(self.closed)

    @property
    def complete(self) -> bool:
        """Whether every pair that occurred is here."""
        return not self.closed.any()

    def add(self, pairs: TokenPairs) -> Doubles:
        """Takes the pairs of a batch; I of each pair at each token, both directions together."""
        indices = pairs.latents.indices.cpu().numpy()
        h, k = (indices[side.cpu().numpy()] for side in pairs.entries)
        key = h * self.n_latents + k
        columns = (pairs.sums.flatten(1) @ _adding(len(pairs.blocks)).to(pairs.sums)).cpu().numpy()
        chosen = self._chosen(key, h, k)
        self.waiting.append((key[chosen], columns[chosen]))
        if sum(len(each) for each, _ in self.waiting) >= AT_ONCE:
            self.settle()
        interaction: Doubles = columns[:, list(COLUMNS["I"])].sum(1)
        return interaction

    def settle(self) -> None:
        """Adds what waits to the table, and lets pairs go if there are too many."""
        if not self.waiting:
            return
        self._merge(*self._added_up())
        if len(self.key) > max(LIMIT, LIMIT_A_LATENT * self.n_latents):
            self._let_go()

    def _added_up(self) -> tuple[Ints, Ints, Doubles]:
        """The pairs that wait, ascending and each of them once; their tokens and columns."""
        key, columns = (np.concatenate(each) for each in zip(*self.waiting, strict=True))
        self.waiting = []
        order = np.argsort(key, kind="stable")
        key = key[order]
        starts = np.flatnonzero(first_of_groups(key))
        together = np.diff(np.append(starts, len(key)))
        table = np.add.reduceat(columns[order], starts, axis=0) if len(key) else columns
        return key[starts], together, table

    def _chosen(self, key: Ints, h: Ints, k: Ints) -> Ints:
        """Pairs at tokens that may belong into the table."""
        if self.complete:
            return np.arange(len(key))
        if self._marks is None:
            self._marks = np.zeros(1 << _SLOTS, dtype=np.bool_)
            self._marks[_slots(self.key)] = True
        return np.flatnonzero(self._marks[_slots(key)] | ~(self.closed[h] & self.closed[k]))

    def _merge(self, key: Ints, together: Ints, table: Doubles) -> None:
        """Takes pairs in ascending order, each of them once."""
        at, known = places(self.key, key)
        self.coactive[at[known]] += together[known]
        for column, added in zip(self.columns, table.T, strict=True):
            column[at[known]] += added[known]
        h, k = np.divmod(key, self.n_latents)
        fresh = ~known & ~(self.closed[h] & self.closed[k])
        if fresh.any():
            among = Among(len(self.key), at[fresh])
            self.key = among(self.key, key[fresh])
            self.coactive = among(self.coactive, together[fresh])
            for number, column in enumerate(self.columns):
                self.columns[number] = among(column, table[fresh, number])
            if self._marks is not None:
                self._marks[_slots(key[fresh])] = True

    def _let_go(self) -> None:
        """Keeps the strongest partners of each latent."""
        rows = self.strongest(PARTNERS)
        gone = np.ones(len(self.key), dtype=np.bool_)
        gone[rows] = False
        for latent in np.divmod(self.key[gone], self.n_latents):
            self.closed[latent] = True
        self.key, self.coactive = self.key[rows], self.coactive[rows]
        for number, column in enumerate(self.columns):
            self.columns[number] = column[rows]
        self._marks = None

    def form(self, columns: tuple[int, ...]) -> Doubles:
        """A form of each pair, both directions together."""
        first, *others = (self.columns[column] for column in columns)
        return sum(others, first)

    def sums(self, rows: Ints) -> Doubles:
        """[n, 5 + blocks] of some pairs."""
        return np.stack([column[rows] for column in self.columns], 1)

    def strongest(self, count: int) -> Ints:
        """Rows of the pairs that are among the `count` strongest of one of their two, by any form.

        Ascending.
        """
        chosen = np.zeros(len(self.key), dtype=np.bool_)
        for columns in set(COLUMNS.values()):
            chosen[self._ranked(self.form(columns), count)] = True
        return np.flatnonzero(chosen)

    def _ranked(self, values: Doubles, count: int) -> Ints:
        """Rows of each latent's `count` largest values; equal ones rank by row."""
        ordered = np.flatnonzero(values > 0)
        ordered = ordered[np.argsort(-values[ordered], kind="stable")]
        # numpy sorts numbers of sixteen bits in one pass
        kind = np.uint16 if self.n_latents <= 1 << 16 else np.int64
        latent = np.empty((len(ordered), 2), dtype=kind)
        latent[:, 0], latent[:, 1] = np.divmod(self.key[ordered], self.n_latents)
        order = np.argsort(latent.ravel(), kind="stable")
        starts = np.flatnonzero(first_of_groups(latent.ravel()[order]))
        ends = np.append(starts[1:], len(order))
        at = starts[:, None] + np.arange(count)
        ranked: Ints = ordered[order[at[at < ends[:, None]]] // 2]
        return ranked

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All there is, by name, to be saved."""
        waiting = [np.concatenate(each) for each in zip(*self.waiting, strict=True)]
        keys, columns = waiting or (self.key[:0].copy(), np.zeros((0, len(self.columns))))
        named: dict[str, NDArray[np.generic]] = {"waiting": keys, "columns": columns}
        named |= {name: getattr(self, name) for name in ("key", "coactive", "closed")}
        named |= {f"column.{number}": column for number, column in enumerate(self.columns)}
        return {f"pairs.{name}": values for name, values in named.items()}

    @classmethod
    def restored(cls, arrays: dict[str, NDArray[np.generic]]) -> PairTally:
        """What `arrays` gave."""
        waiting = [(arrays["pairs.waiting"], arrays["pairs.columns"])]
        plain = {name: arrays[f"pairs.{name}"] for name in ("key", "coactive", "closed")}
        count = sum(name.startswith("pairs.column.") for name in arrays)
        columns = [arrays[f"pairs.column.{number}"] for number in range(count)]
        return cls(**plain, columns=columns, waiting=waiting)  # type: ignore[arg-type]


@cache
def _adding(blocks: int) -> Tensor:
    """From five columns a block [5 blocks] to their sums over blocks, and I of each block."""
    over_blocks = torch.eye(FIXED, dtype=torch.float64).repeat(blocks, 1)
    of_form = torch.zeros(FIXED, 1, dtype=torch.float64)
    of_form[list(COLUMNS["I"])] = 1
    return torch.cat([over_blocks, torch.kron(torch.eye(blocks).double(), of_form)], 1)


def _slots(key: Ints) -> NDArray[np.uint64]:
    """A place among the marks for each key, spread evenly."""
    mixed = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed >> np.uint64(64 - _SLOTS)
