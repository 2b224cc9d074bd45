"""The strongest entries of many rows at once: contexts of latents and of pairs, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
WINDOW = 12
"""Tokens of a context on either side of its peak."""
WIDTH = 2 * WINDOW + 1


@dataclass(eq=False)
class Strongest:
    """Of each of R rows the C entries with the largest keys so far, largest first.

    Equal keys rank in the order in which they came. A free place has the key -1.
    """

    key: Floats
    """[R, C], at least 0 where there is an entry."""
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    around: Floats
    """[R, C, paths, WIDTH]: values at the tokens about the position, 0 where there is none."""

    @classmethod
    def empty(cls, rows: int, count: int, paths: int) -> Strongest:
        """Nothing seen yet; `paths` values are kept for each token of a context."""
        places = np.zeros((rows, count), dtype=np.int32)
        around = np.zeros((rows, count, paths, WIDTH), dtype=np.float32)
        return cls(np.full((rows, count), -1, dtype=np.float32), places, places.copy(), around)

    @property
    def count(self) -> int:
        """C."""
        return int(self.key.shape[1])

    def add(
        self,
        row: Ints,
        key: Floats,
        sequence: Ints,
        position: Ints,
        around: Callable[[Ints], Floats],
    ) -> None:
        """Takes entries; `around` gives [n, paths, WIDTH] of those that are taken, by index."""
        better = (key > self.key[row, -1]).nonzero()[0]
        if len(better) == 0:
            return
        rows, local = np.unique(row[better], return_inverse=True)
        places = np.repeat(np.arange(len(rows)), self.count)
        group = np.concatenate([places, local])
        keys = np.concatenate([self.key[rows].ravel(), key[better]])
        order = np.lexsort((np.arange(len(keys)), -keys, group))
        starts = np.searchsorted(group[order], np.arange(len(rows)))
        kept = order[starts[:, None] + np.arange(self.count)]
        fresh = kept >= len(places)
        old = np.where(fresh, 0, kept)
        new = better[np.where(fresh, kept - len(places), 0)]
        for name, given in (("key", key), ("sequence", sequence), ("position", position)):
            values = getattr(self, name)
            before = values[rows].ravel()[old]
            values[rows] = np.where(fresh, given[new], before)
        shape = self.around.shape[2:]
        moved = self.around[rows].reshape(-1, *shape)[old]
        moved[fresh] = around(new[fresh])
        self.around[rows] = moved

    def arrays(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """All there is, by name, to be saved."""
        return {f"{prefix}.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def restored(cls, prefix: str, arrays: dict[str, NDArray[np.generic]]) -> Strongest:
        """What `arrays` gave."""
        return cls(**{f.name: arrays[f"{prefix}.{f.name}"] for f in fields(cls)})  # type: ignore[arg-type]


def first_of_groups(*keys: Ints) -> NDArray[np.bool_]:
    """Which entries of sorted columns begin a group of equal values in all of them."""
    begins = np.ones(len(keys[0]), dtype=np.bool_)
    if len(begins):
        begins[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return begins
