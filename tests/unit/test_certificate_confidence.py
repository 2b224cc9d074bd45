"""Confidence bounds: by their formulas, against exact tails, and by how often they miss a mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from crossproof.proof.certificate.verifier import confidence
from crossproof.proof.certificate.verifier.confidence import (
    betting,
    binomial,
    empirical_bernstein,
    hoeffding,
)

Draw = Callable[[np.random.Generator, int], np.ndarray]
BOUNDS = (betting, empirical_bernstein, hoeffding)
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "fair coin": (lambda g, n: g.integers(0, 2, n).astype(float), 0.5),
    "rare ones": (lambda g, n: (g.random(n) < 0.03).astype(float), 0.03),
    "rare zeros": (lambda g, n: (g.random(n) < 0.97).astype(float), 0.97),
    "uniform": (lambda g, n: g.random(n), 0.5),
    "narrow gaps": (lambda g, n: np.clip(g.normal(0.55, 0.02, n), 0, 1), 0.55),
    "skewed shares": (lambda g, n: g.beta(0.5, 4, n), 1 / 9),
    "a rare large gap": (lambda g, n: np.where(g.random(n) < 0.02, 1.0, 0.5), 0.51),
    "two values": (lambda g, n: np.where(g.random(n) < 0.3, 0.9, 0.2), 0.41),
}


def bets_miss(values: np.ndarray, alpha: float, mean: float) -> bool:
    """Whether `betting` is below the mean: the capital at the mean has reached the threshold."""
    won = confidence._won(values, confidence._bets(values, alpha), mean)
    return won >= math.log(1 / alpha)


MISSED: dict[str, Callable[[np.ndarray, float, float], bool]] = {
    "betting": bets_miss,
    "Bernstein": lambda values, alpha, mean: empirical_bernstein(values, alpha) < mean,
    "Hoeffding": lambda values, alpha, mean: hoeffding(values, alpha) < mean,
}


def misses(bound: str, name: str, draws: int, alpha: float, count: int) -> int:
    draw, mean = DISTRIBUTIONS[name]
    generator = np.random.default_rng(7)
    return sum(MISSED[bound](draw(generator, count), alpha, mean) for _ in range(draws))


def most(draws: int, alpha: float) -> float:
    """Misses beyond this have a probability below 1e-6, if each has at most alpha (Bernstein)."""
    log = math.log(1e6)
    return draws * alpha + math.sqrt(2 * draws * alpha * (1 - alpha) * log) + 2 * log / 3


@pytest.mark.parametrize("bound", MISSED)
@pytest.mark.parametrize("name", ["rare ones", "narrow gaps", "a rare large gap"])
def test_no_bound_misses_the_mean_more_often_than_allowed(name: str, bound: str) -> None:
    assert misses(bound, name, 300, 0.05, 60) <= most(300, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 100, 400])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ten_thousand_draws_miss_the_mean_no_more_often_than_allowed(name: str, count: int) -> None:
    for bound in MISSED:
        for alpha in (0.2, 0.05, 0.005):
            assert misses(bound, name, 10_000, alpha, count) <= most(10_000, alpha), bound


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_betting_misses_the_mean_where_the_capital_at_the_mean_says_so(name: str) -> None:
    draw, mean = DISTRIBUTIONS[name]
    generator = np.random.default_rng(8)
    for alpha in (0.99, 0.5, 0.9, 0.7):  # at these it often does
        values = draw(generator, 12)
        assert (betting(values, alpha) < mean) == bets_miss(values, alpha, mean)


@pytest.mark.slow
@pytest.mark.parametrize("chance", [0.003, 0.03, 0.5])
def test_ten_thousand_counts_miss_the_chance_no_more_often_than_allowed(chance: float) -> None:
    counts = np.random.default_rng(3).binomial(100, chance, 10_000)
    missed = sum(binomial(int(k), 100, 0.05) < chance for k in counts)
    assert missed <= most(10_000, 0.05)
    if chance == 0.5:  # and exact: what it misses is near what it may
        assert missed >= 0.03 * 10_000


def capital(values: list[float], alpha: float, mean: float) -> float:
    """The gambler's largest capital, by the paper's own steps."""
    n, total, spread, wealth, largest = len(values), 0.5, 0.25, 1.0, 0.0
    for i, x in enumerate(values):
        variance = spread / (i + 1)
        bet = min(math.sqrt(2 * math.log(1 / alpha) / (n * variance)), 0.75 / (1 - mean))
        wealth *= 1 + bet * (mean - x)
        largest = max(largest, wealth)
        total += x
        spread += (x - total / (i + 2)) ** 2
    return largest


@pytest.mark.parametrize("alpha", [0.2, 0.003])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_betting_is_where_the_capital_reaches_the_threshold(name: str, alpha: float) -> None:
    values = DISTRIBUTIONS[name][0](np.random.default_rng(1), 50)
    bound = betting(values, alpha)
    assert bound == 1 or capital(values.tolist(), alpha, bound) >= (1 - 1e-9) / alpha
    assert capital(values.tolist(), alpha, bound - 1e-6) < 1 / alpha
    assert bound > values.mean() or values.mean() == 1


def test_the_capital_rises_with_the_mean() -> None:
    for name, (draw, _) in DISTRIBUTIONS.items():
        values = draw(np.random.default_rng(2), 30).tolist()
        at = [capital(values, 0.05, mean) for mean in np.linspace(0, 0.999, 300)]
        assert np.all(np.diff(at) >= -1e-12 * np.array(at[1:])), name


def test_what_rounding_may_have_added_to_the_capital_is_taken_off() -> None:
    values = np.random.default_rng(4).random(3000)
    bets = confidence._bets(values, 0.01)
    for mean in (0.01, 0.5, 0.99):
        exact, best = Fraction(1), -math.inf
        for x, bet in zip(values[:200].tolist(), bets.tolist(), strict=False):
            used = min(Fraction(bet), Fraction(3, 4) / (1 - Fraction(mean)))
            exact *= 1 + used * (Fraction(mean) - Fraction(x))
            best = max(best, math.log(exact))
        won = confidence._won(values[:200], bets[:200], mean)
        assert best - 1e-9 <= won <= best - 1e-14


def test_bets_know_only_what_came_before() -> None:
    values = np.random.default_rng(5).random(20)
    other = values.copy()
    other[12:] = 0.123
    ours, theirs = confidence._bets(values, 0.05), confidence._bets(other, 0.05)
    assert np.array_equal(ours[:13], theirs[:13])
    assert not np.array_equal(ours[13:], theirs[13:])


def test_the_formulas_of_hoeffding_and_bernstein() -> None:
    values, alpha = np.array([0.0, 0.25, 0.5, 0.25] * 50), 0.01
    assert hoeffding(values, alpha) == pytest.approx(
        0.25 + math.sqrt(math.log(100) / 400), rel=1e-14
    )
    variance = (50 * 0.0625 * 2) / 199
    expected = 0.25 + math.sqrt(2 * variance * math.log(200) / 200) + 7 * math.log(200) / (3 * 199)
    assert empirical_bernstein(values, alpha) == pytest.approx(expected, rel=1e-14)
    for bound, exact in ((hoeffding, 0.25), (empirical_bernstein, 0.25)):
        assert bound(values, alpha) > exact


def test_bounds_are_at_most_one_and_never_below_the_mean() -> None:
    for values in (np.ones(4), np.zeros(3), np.array([0.5]), np.array([1.0, 0.0])):
        for bound in BOUNDS:
            assert values.mean() <= bound(values, 0.05) <= 1
    assert empirical_bernstein(np.array([0.5]), 0.05) == 1


@pytest.mark.parametrize(("successes", "count"), [(0, 30), (1, 30), (7, 30), (29, 30), (3, 400)])
@pytest.mark.parametrize("alpha", [0.3, 0.01])
def test_binomial_is_where_the_exact_tail_reaches_alpha(
    successes: int, count: int, alpha: float
) -> None:
    bound = binomial(successes, count, alpha)

    def tail(p: float) -> float:
        q = Fraction(p)
        terms = (math.comb(count, k) * q**k * (1 - q) ** (count - k) for k in range(successes + 1))
        return float(sum(terms))

    assert tail(bound) <= alpha * (1 + 1e-12)
    assert tail(bound - 1e-8) > alpha
    assert binomial(count, count, alpha) == 1
