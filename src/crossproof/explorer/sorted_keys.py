"""Columns beside ascending keys, each of them once: where keys stand, and room for new ones.

A column at a time: a table of millions of rows is never in memory twice.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)
Ints = NDArray[np.int64]


def places(keys: Ints, wanted: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where wanted keys stand or would stand, and which of them are there."""
    at = np.searchsorted(keys, wanted)
    there = np.zeros(len(wanted), dtype=np.bool_)
    inside = at < len(keys)
    there[inside] = keys[at[inside]] == wanted[inside]
    return at, there


class Among:
    """Puts new rows, in order, before those at their places: into one column after another."""

    def __init__(self, rows: int, at: Ints) -> None:
        self._new = at + np.arange(len(at))
        self._old = np.ones(rows + len(at), dtype=np.bool_)
        self._old[self._new] = False

    def __call__(self, column: NDArray[T], added: NDArray[T]) -> NDArray[T]:
        """The column with the new rows' numbers in it."""
        whole = np.empty(len(self._old), dtype=column.dtype)
        whole[self._new], whole[self._old] = added, column
        return whole
