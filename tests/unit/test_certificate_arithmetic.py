"""Counted arithmetic with error bounds: every bound holds against exact rational arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from crossproof.proof.certificate.verifier.arithmetic import (
    TINY,
    UNIT,
    UP,
    Arithmetic,
    Rounded,
    gamma,
    join,
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
    for terms in (0, 10**6):
        exact = (terms + 2) * unit / (1 - (terms + 2) * unit)
        assert gamma(terms) == pytest.approx(
            float(exact * (1 + Fraction(1, 10**9))), rel=1e-14, abs=0
        )


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


A = Rounded(np.array([[1.0, -3.0], [2.0, 0.5]]), np.array([4.0, 8.0]), np.array([2**-9, 2**-7]))
B = Rounded(np.array([[-1.0, 2.0], [0.25, 6.0]]), np.array([2.0, 16.0]), np.array([2**-5, 0.0]))


def charged(found: Rounded, value: list[object], size: list[float], error: list[float]) -> None:
    """Size and error are what the theorems say, and no more than their own rounding above it."""
    np.testing.assert_array_equal(found.value, value)
    for ours, theirs in ((found.size, size), (found.error, error)):
        assert (ours >= np.array(theirs)).all()
        np.testing.assert_allclose(ours, theirs, rtol=4e-9, atol=3 * TINY)


def test_every_operation_is_charged_its_own_rounding() -> None:
    count, u = Arithmetic(), UNIT
    charged(count.exact(A.value), A.value.tolist(), [2, 3], [0, 0])
    charged(count.exact(A.value[None]), A.value[None].tolist(), [2, 3], [0, 0])
    charged(count.add(A, B), [[0, -1], [2.25, 6.5]], [6, 24],
            [2**-9 + 2**-5 + 12 * u, 2**-7 + 48 * u])  # fmt: skip
    charged(count.subtract(A, B), [[2, -5], [1.75, -5.5]], [6, 24],
            [2**-9 + 2**-5 + 12 * u, 2**-7 + 48 * u])  # fmt: skip
    errors = [2**-9 * 2 + 4 * 2**-5 + 16 * u, 2**-7 * 16 + 256 * u]
    charged(count.times(A, B), [[-1, -6], [0.5, 3]], [8 + errors[0], 128 + errors[1]], errors)
    left, right = np.array([4.0, 8.0]), np.abs(B.value) + B.error
    size, g = left @ right, gamma(2)
    errors = (A.error @ right + 12 * B.error + g * size).tolist()
    charged(count.product(A, B), (A.value @ B.value).tolist(), (size + errors).tolist(), errors)
    charged(count.relu(A), [[1, 0], [2, 0.5]], [4, 8], [2**-9, 2**-7])
    charged(count.below(A), [[0, -3], [0, 0]], [4, 8], [2**-9, 2**-7])
    charged(count.absolute(A), [[1, 3], [2, 0.5]], [4, 8], [2**-9, 2**-7])
    charged(count.minimum(A, B), [[-1, -3], [0.25, 0.5]], [4, 16], [2**-5, 2**-7])
    charged(count.maximum(A, B), [[1, 2], [2, 6]], [4, 16], [2**-5, 2**-7])
    charged(count.total(A, axis=0), [3, -2.5], [8, 16],
            [2**-8 + 8 * gamma(2), 2**-6 + 16 * gamma(2)])  # fmt: skip
    size, error = np.hypot(4, 8), np.hypot(2**-9, 2**-7) + gamma(6) * np.hypot(4, 8)
    charged(count.norm(A), [[np.sqrt(10)], [np.sqrt(4.25)]], [size + error], [error])
    tiny = count.norm(Rounded(*(1e-200 * np.ones(s) for s in ((1, 3), (3,), (3,)))))
    assert tiny.error[0] == pytest.approx(3e-150, rel=1e-8, abs=0)
    assert tiny.size[0] == pytest.approx(6e-150, rel=1e-8, abs=0)


def test_parts_keep_what_they_are_charged() -> None:
    charged(A[1], [2, 0.5], [4, 8], [2**-9, 2**-7])
    charged(A.columns(slice(1, 2)), [[-3], [0.5]], [8], [2**-7])
    charged(A.pick(np.array([1, 0])), [[-3], [2]], [8], [2**-7])
    charged(A.zero_where(A.value > 0), [[0, -3], [0, 0]], [4, 8], [2**-9, 2**-7])
    turned = Rounded(A.value, A.size, A.error[::-1]).transposed()
    charged(turned, [[1, 2], [-3, 0.5]], [8, 8], [2**-7, 2**-7])
    charged(join([A, B]), [[1, -3, -1, 2], [2, 0.5, 0.25, 6]], [4, 8, 2, 16],
            [2**-9, 2**-7, 2**-5, 0])  # fmt: skip
    charged(join([A, B], axis=0), [[1, -3], [2, 0.5], [-1, 2], [0.25, 6]], [4, 16],
            [2**-5, 2**-7])  # fmt: skip


def test_bounds_are_outward_by_the_error_and_their_own_rounding() -> None:
    size, error = np.array([4.0]), np.array([0.0])
    for value in (0.0, 1.0, -3.0):
        found = Rounded(np.array([[value]]), size, error)
        assert found.low.item() == value - (8 * UNIT + TINY) * UP
        assert found.high.item() == value + (8 * UNIT + TINY) * UP
    nothing = Rounded(np.zeros((1, 1)), np.zeros(1), np.zeros(1))
    assert nothing.low.item() == -nothing.high.item() == -TINY * UP
    moved = Arithmetic().add(nothing, nothing)
    assert (moved.size.item(), moved.error.item()) == (TINY * UP, TINY * UP)


def test_the_cross_entropy_bound_is_raised_by_its_rounding() -> None:
    """Of margins so large that log(1 + Σ exp) is 0: what is left is the slack alone."""
    (bound,) = log_sum(Arithmetic(), np.array([[1000.0, np.inf, 3000.0]]))
    assert bound == pytest.approx(gamma(67) + 8 * UNIT * 3000, rel=1e-8, abs=0)
    (bound,) = log_sum(Arithmetic(), np.array([[-1000.0, np.inf]]))
    slack = gamma(66) * (1 + 1000 + 1000) + 8 * UNIT * 2000
    assert bound - 1000 >= slack
    assert bound - 1000 * UP == pytest.approx(slack, rel=0.02, abs=0)
    (bound,) = log_sum(Arithmetic(), np.array([[np.inf, np.inf]]))
    assert 0 < bound < 1e-13
