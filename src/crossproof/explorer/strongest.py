"""The strongest entries of many rows at once: contexts of latents and of pairs, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

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
    slot: NDArray[np.uint8]
    """[R, C]: where an entry's values lie in `around`; they stay there when its place changes."""
    around: Floats
    """[R, C, paths, WIDTH]: values at the tokens about the position, 0 where there is none."""

    @classmethod
    def empty(cls, rows: int, count: int, paths: int) -> Strongest:
        """Nothing seen yet; `paths` values are kept for each token of a context."""
        places = np.zeros((rows, count), dtype=np.int32)
        slots = np.tile(np.arange(count, dtype=np.uint8), (rows, 1))
        around = np.zeros((rows, count, paths, WIDTH), dtype=np.float32)
        return cls(
            np.full((rows, count), -1, dtype=np.float32), places, places.copy(), slots, around
        )

    @property
    def count(self) -> int:
        """C."""
        return int(self.key.shape[1])

    def values(self, row: int, place: int | Ints) -> Floats:
        """[paths, WIDTH] of an entry, or [n, paths, WIDTH] of several of a row."""
        values: Floats = self.around[row, self.slot[row, place]]
        return values

    def add(
        self,
        row: Ints,
        key: Floats,
        sequence: Ints,
        position: Ints,
        around: Callable[[Ints], Floats],
    ) -> None:
        """Takes entries, rows ascending; `around` gives [n, paths, WIDTH] of some, by index.

        Of each row one at a time: the first of all rows, then the second of all, and so on.
        """
        left = (key > self.key[row, -1]).nonzero()[0]
        while len(left):
            first = first_of_groups(row[left])
            taken, left = left[first], left[~first]
            self._insert(row[taken], key[taken], sequence[taken], position[taken], around(taken))
            left = left[key[left] > self.key[row[left], -1]]

    def _insert(
        self, row: Ints, key: Floats, sequence: Ints, position: Ints, around: Floats
    ) -> None:
        """Takes one entry a row in the place of the weakest, behind those that are as strong."""
        slot, places = self.slot[row, -1], np.arange(self.count)
        self.around[row, slot] = around
        place = (self.key[row] >= key[:, None]).sum(1)
        before = places - (places > place[:, None])
        for name, given in (
            ("key", key), ("sequence", sequence), ("position", position), ("slot", slot),
        ):  # fmt: skip
            values = getattr(self, name)
            moved = np.take_along_axis(values[row], before, 1)
            moved[np.arange(len(row)), place] = given
            values[row] = moved

    def arrays(self, prefix: str) -> dict[str, NDArray[np.generic]]:
        """All there is, by name, to be saved."""
        return {f"{prefix}.{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def restored(cls, prefix: str, arrays: dict[str, NDArray[np.generic]]) -> Strongest:
        """What `arrays` gave."""
        return cls(**{f.name: arrays[f"{prefix}.{f.name}"] for f in fields(cls)})  # type: ignore[arg-type]


def first_of_groups(*keys: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which entries of sorted columns begin a group of equal values in all of them."""
    begins = np.ones(len(keys[0]), dtype=np.bool_)
    if len(begins):
        begins[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return begins


def ranks(begins: NDArray[np.bool_]) -> Ints:
    """Of each entry its place in its group of neighbours, from 0."""
    at = np.arange(len(begins))
    place: Ints = at - np.maximum.accumulate(np.where(begins, at, 0))
    return place


def first_largest(size: NDArray[Any], begins: NDArray[np.bool_]) -> Ints:
    """Of each group of neighbours the entry that is largest, the first of equals."""
    starts = np.flatnonzero(begins)
    if len(starts) == 0:
        return starts
    largest = np.repeat(np.maximum.reduceat(size, starts), np.diff(np.append(starts, len(size))))
    at = np.flatnonzero(size == largest)
    group = np.cumsum(begins, dtype=np.int64)[at]
    return at[first_of_groups(group)]


def largest(values: Ints, count: int) -> Ints:
    """The indices, ascending, of the `count` largest counts; the first of equals."""
    if len(values) <= count:
        return np.arange(len(values))
    at_least = np.bincount(values)[::-1].cumsum()[::-1]  # how many are as large as 0, 1, ...
    least = np.flatnonzero(at_least >= count)[-1]
    over, equal = values > least, np.flatnonzero(values == least)
    over[equal[: count - np.count_nonzero(over)]] = True
    return np.flatnonzero(over)
