"""Counted float64 arithmetic that carries its own rounding error (THEORY section 8).

Every quantity a verdict rests on is a `Rounded`: computed values beside a bound on how far each
column is from the real-arithmetic result. A product of length k is charged γ_k = ku/(1 - ku) of
the product of absolute values (Higham; any order of summation, with or without FMA). Bounds are
kept per column, so that they cost one more row per product instead of a second product.

Every operation is counted: a multiply-add is 2, anything elementwise is 1 an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

UNIT = 2.0**-53
"""u, the unit roundoff of float64."""
UP = 1 + 1e-9
"""Covers the rounding of the error bounds themselves: sums of at most 10^6 positive terms."""
TINY = 1e-290
"""Covers underflow in every operation."""


def gamma(terms: int) -> float:
    """γ_k for a sum of `terms` products, rounded up; two terms more than needed."""
    units = (terms + 2) * UNIT
    return units / (1 - units) * UP


@dataclass(frozen=True, eq=False)
class Rounded:
    """Values [..., n]; no row is further than `error` [n] from the truth or larger than `size`."""

    value: Array
    size: Array
    """[n]: bound on the absolute value of the computed and of the true entries of a column."""
    error: Array
    """[n]: bound on |computed - true| in a column."""

    def __getitem__(self, rows: Any) -> Rounded:
        """Some of the rows (never columns)."""
        return Rounded(self.value[rows], self.size, self.error)

    def columns(self, which: slice | Indices) -> Rounded:
        """Some of the columns."""
        return Rounded(self.value[..., which], self.size[which], self.error[which])

    def pick(self, columns: Indices) -> Rounded:
        """One column of every row [B, n], as [B, 1]."""
        value = np.take_along_axis(self.value, columns[:, None], axis=1)
        return Rounded(value, self.size.max(keepdims=True), self.error.max(keepdims=True))

    def zero_where(self, zero: npt.NDArray[np.bool_]) -> Rounded:
        """The same, but exactly zero where `zero` is true."""
        return Rounded(np.where(zero, 0.0, self.value), *self.bounds)

    def transposed(self) -> Rounded:
        """Rows [B, n] as columns [n, B]."""
        rows = len(self.value)
        size, error = np.full(rows, self.size.max()), np.full(rows, self.error.max())
        return Rounded(np.ascontiguousarray(self.value.T), size, error)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """`size` and `error`."""
        return self.size, self.error

    @property
    def low(self) -> Array:
        """A lower bound on the true values."""
        return self.value - (self.error + 2 * UNIT * self.size + TINY) * UP

    @property
    def high(self) -> Array:
        """An upper bound on the true values."""
        return self.value + (self.error + 2 * UNIT * self.size + TINY) * UP


@dataclass
class Arithmetic:
    """The operations of provers, verifier and brute force, counted in `operations`."""

    operations: int = field(default=0)

    def exact(self, values: Array) -> Rounded:
        """Numbers as they are stored: no error."""
        self.operations += values.size
        size = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
        return Rounded(values, size, np.zeros_like(size))

    def product(self, left: Rounded, right: Rounded) -> Rounded:
        """left [..., k] @ right [k, n]."""
        inner, columns = right.value.shape
        rows = left.value.size // inner
        self.operations += 2 * (rows + 2) * inner * columns
        magnitude = np.abs(right.value) + right.error
        size = left.size @ magnitude
        error = left.error @ magnitude + left.size.sum() * right.error + gamma(inner) * size
        return _bounded(left.value @ right.value, size + error, error)

    def add(self, left: Rounded, right: Rounded) -> Rounded:
        """left + right, rows broadcast."""
        return self._sum(left, right, left.value + right.value)

    def subtract(self, left: Rounded, right: Rounded) -> Rounded:
        """left - right, rows broadcast; a single column is subtracted from all."""
        return self._sum(left, right, left.value - right.value)

    def _sum(self, left: Rounded, right: Rounded, value: Array) -> Rounded:
        self.operations += value.size
        size = left.size + right.size
        return _bounded(value, size, left.error + right.error + 2 * UNIT * size)

    def times(self, left: Rounded, right: Rounded) -> Rounded:
        """left * right, entry by entry, rows broadcast."""
        value = left.value * right.value
        self.operations += value.size
        size = left.size * right.size
        error = left.error * right.size + left.size * right.error + 2 * UNIT * size
        return _bounded(value, size + error, error)

    def relu(self, of: Rounded) -> Rounded:
        """max(of, 0)."""
        return self._same(of, lambda value: np.maximum(value, 0.0))

    def below(self, of: Rounded) -> Rounded:
        """min(of, 0)."""
        return self._same(of, lambda value: np.minimum(value, 0.0))

    def absolute(self, of: Rounded) -> Rounded:
        """|of|."""
        return self._same(of, np.abs)

    def _same(self, of: Rounded, function: Callable[[Array], Array]) -> Rounded:
        """A function with |f(s) - f(t)| <= |s - t| and |f(s)| <= |s|."""
        self.operations += of.value.size
        return Rounded(function(of.value), of.size, of.error)

    def minimum(self, left: Rounded, right: Rounded) -> Rounded:
        """The smaller, entry by entry."""
        return self._pick(left, right, np.minimum(left.value, right.value))

    def maximum(self, left: Rounded, right: Rounded) -> Rounded:
        """The larger, entry by entry."""
        return self._pick(left, right, np.maximum(left.value, right.value))

    def _pick(self, left: Rounded, right: Rounded, value: Array) -> Rounded:
        self.operations += value.size
        size, error = np.maximum(left.size, right.size), np.maximum(left.error, right.error)
        return Rounded(value, size, error)

    def total(self, of: Rounded, axis: int) -> Rounded:
        """The sum over an axis before the last."""
        terms = of.value.shape[axis]
        self.operations += of.value.size
        size = of.size * terms
        return _bounded(of.value.sum(axis=axis), size, of.error * terms + gamma(terms) * size)

    def norm(self, of: Rounded) -> Rounded:
        """The Euclidean norm of every row, [..., 1]."""
        self.operations += 2 * of.value.size
        value = np.sqrt(np.einsum("...n,...n->...", of.value, of.value))[..., None]
        size = np.sqrt(np.array([of.size @ of.size]))
        error = np.sqrt(np.array([of.error @ of.error])) + gamma(len(of.size) + 4) * size
        # Squares below the smallest float vanish: their roots add up to less than this, in `size`
        # as in `value`.
        lost = 1e-150 * len(of.size)
        return _bounded(value, size + error + 2 * lost, error + lost)


def join(parts: list[Rounded], axis: int = -1) -> Rounded:
    """Side by side (the last axis), or rows below each other (any other axis)."""
    value = np.concatenate([part.value for part in parts], axis=axis)
    if axis == -1:
        sizes, errors = [part.size for part in parts], [part.error for part in parts]
        return Rounded(value, np.concatenate(sizes), np.concatenate(errors))
    size = np.max([part.size for part in parts], axis=0)
    return Rounded(value, size, np.max([part.error for part in parts], axis=0))


def _bounded(value: Array, size: Array, error: Array) -> Rounded:
    return Rounded(value, (size + TINY) * UP, (error + TINY) * UP)


def log_sum(arithmetic: Arithmetic, margins: Array) -> Array:
    """An upper bound on log(1 + Σ_c exp(-μ_c)) for lower bounds μ [B, C] on the margins."""
    arithmetic.operations += 4 * margins.size
    shift = np.maximum(-margins.min(axis=1), 0.0)
    total = np.exp(-shift) + np.exp(-margins - shift[:, None]).sum(axis=1)
    value: Array = shift + np.log(total)
    slack = gamma(margins.shape[1] + 64) * (1 + np.abs(value) + shift)
    # exp(-μ - s) is off by the rounding of its argument, relative to the largest term.
    size = np.abs(np.where(np.isfinite(margins), margins, 0.0)).max(axis=1) + shift
    bound: Array = (value + slack + 8 * UNIT * size) * UP + TINY
    return bound
