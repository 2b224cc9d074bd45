"""Counted arithmetic with error bounds: every bound holds against exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from crossproof.proof.certificate.verifier.arithmetic import (
    UNIT,
    Arithmetic,
    Rounded,
    gamma,
    log_sum,
)


def exact(values: np.ndarray) -> np.ndarray:
    """Rational numbers, as an array of objects."""
    return np.vectorize(Fraction, otypes=[object])(values)


def holds(found: Rounded, truth: np.ndarray) -> None:
    """The truth is within the error, and neither is larger than the size."""
    off = np.abs(exact(found.value) - truth)
    assert (off <= exact(np.broadcast_to(found.error, off.shape))).all()
    size = exact(np.broadcast_to(found.size, off.shape))
    assert (np.abs(truth) <= size).all()
    assert (np.abs(exact(found.value)) <= size).all()
    assert (exact(found.low) <= truth).all()
    assert (exact(found.high) >= truth).all()


def numbers(seed: int, *shape: int) -> np.ndarray:
    g = np.random.default_rng(seed)
    return g.standard_normal(shape) * 2.0 ** g.integers(-12, 12, shape)


@pytest.mark.parametrize("seed", range(5))
def test_products_of_rounded_matrices(seed: int) -> None:
    count = Arithmetic()
    a, b, c = numbers(seed, 4, 9), numbers(seed + 1, 9, 7), numbers(seed + 2, 7, 3)
    once = count.product(count.exact(a), count.exact(b))
    truth = exact(a).dot(exact(b))
    holds(once, truth)
    assert (exact(once.value) != truth).any()  # rounding happened, so no error would be wrong
    holds(count.product(once, count.exact(c)), truth.dot(exact(c)))
    holds(count.product(count.exact(c.T[:, :7]), Rounded(once.value.T[:, :4], *wide(once))),
          exact(c.T).dot(truth.T))  # fmt: skip


def wide(of: Rounded) -> tuple[np.ndarray, np.ndarray]:
    turned = of.transposed()
    return turned.size, turned.error


OPERATIONS: dict[str, tuple[Callable[..., Rounded], Callable[..., np.ndarray]]] = {
    "add": (lambda c, x, y: c.add(x, y), lambda x, y: x + y),
    "subtract": (lambda c, x, y: c.subtract(x, y), lambda x, y: x - y),
    "times": (lambda c, x, y: c.times(x, y), lambda x, y: x * y),
    "minimum": (lambda c, x, y: c.minimum(x, y), np.minimum),
    "maximum": (lambda c, x, y: c.maximum(x, y), np.maximum),
    "relu": (lambda c, x, y: c.relu(x), lambda x, y: np.maximum(x, Fraction(0))),
    "below": (lambda c, x, y: c.below(x), lambda x, y: np.minimum(x, Fraction(0))),
    "absolute": (lambda c, x, y: c.absolute(x), lambda x, y: np.abs(x)),
    "total": (lambda c, x, y: c.total(x, axis=0), lambda x, y: x.sum(axis=0)),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_elementwise_operations_on_rounded_numbers(name: str, seed: int) -> None:
    count = Arithmetic()
    a, b, c = numbers(seed, 5, 8), numbers(seed + 1, 8, 6), numbers(seed + 2, 5, 6)
    first, second = count.product(count.exact(a), count.exact(b)), count.exact(c)
    second = count.times(second, count.exact(c / 3))
    ours, truth = OPERATIONS[name]
    rational = exact(a).dot(exact(b)), exact(c) * exact(c / 3)
    holds(ours(count, first, second), truth(*rational))


@pytest.mark.parametrize("seed", range(3))
def test_norms_of_rounded_rows(seed: int) -> None:
    count = Arithmetic()
    a, b = numbers(seed, 5, 8), numbers(seed + 1, 8, 6)
    found = count.norm(count.product(count.exact(a), count.exact(b)))
    squares = (exact(a).dot(exact(b)) ** 2).sum(axis=1)
    low, high = exact(found.value - found.error)[:, 0], exact(found.value + found.error)[:, 0]
    assert (low**2 <= squares).all()
    assert (squares <= high**2).all()


def test_gamma_is_highams_constant_rounded_up() -> None:
    for terms in (1, 7, 1000):
        unit = Fraction(1, 2**53)
        assert Fraction(gamma(terms)) > terms * unit / (1 - terms * unit)
        assert gamma(terms) < (terms + 4) * UNIT


def test_every_operation_is_counted() -> None:
    count = Arithmetic()
    x, y = count.exact(numbers(0, 4, 9)), count.exact(numbers(1, 9, 7))
    assert count.operations == 36 + 63
    count.operations = 0
    z = count.product(x, y)
    assert count.operations == 2 * (4 + 2) * 9 * 7  # two more rows, for sizes and errors
    for ours, operations in [(count.add, 28), (count.times, 28), (count.minimum, 28)]:
        count.operations = 0
        ours(z, z)
        assert count.operations == operations
    count.operations = 0
    count.norm(z)
    assert count.operations == 56


def test_the_cross_entropy_bound_is_above_and_near_the_truth() -> None:
    import flint

    flint.ctx.prec = 200
    margins = np.concatenate([numbers(0, 50, 6), np.full((1, 6), 30.0), np.full((1, 6), -700.0)])
    margins[:, 2] = np.inf
    ours = log_sum(Arithmetic(), margins)
    for row, bound in zip(margins, ours, strict=True):
        terms = [(-flint.arb(m)).exp() for m in row.tolist() if np.isfinite(m)]
        truth = (1 + sum(terms, flint.arb(0))).log()
        assert flint.arb(bound) > truth
        assert bound <= float(truth.mid()) * (1 + 1e-8) + 1e-11


def test_what_is_not_a_number_is_never_positive() -> None:
    count = Arithmetic()
    bad = Rounded(np.array([[np.nan, np.inf]]), np.array([1.0, np.inf]), np.array([0.0, np.inf]))
    with np.errstate(all="ignore"):
        assert not (count.add(bad, bad).low > 0).any()
