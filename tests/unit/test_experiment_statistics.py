"""Intervals over seeds and sequences."""

from __future__ import annotations

import numpy as np
import pytest

from crossproof.errors import CrossproofError
from crossproof.evaluation import Sums, estimate
from paper.measuring.statistics import over_seeds

SEQUENCES, PARTS = 30, np.array([2.0, 5.0])


def ratio(totals: Sums) -> np.ndarray:
    return totals["error"] / totals["count"][:, None]


def draw(seeds: int, seed: int, seed_spread: float, sequence_spread: float) -> list[Sums]:
    """Sums whose ratio is 2 and 5, times an effect of the seed and one of the sequence."""
    rng = np.random.default_rng(seed)
    count = rng.integers(5, 30, SEQUENCES).astype(float)
    text = rng.normal(1, sequence_spread, (SEQUENCES, 1))
    effects = rng.normal(1, seed_spread, seeds)
    return [{"count": count, "error": count[:, None] * text * PARTS * e} for e in effects]


def test_the_estimate_is_the_mean_over_seeds_of_the_statistic_of_the_totals() -> None:
    sums = draw(3, 0, 0.3, 0.3)
    found = over_seeds(sums, ratio).estimate()
    parts = np.mean([s["error"].sum(0) / s["count"].sum() for s in sums], axis=0)
    assert found["parts"] == pytest.approx(parts)
    assert found["mean"] == pytest.approx(parts.mean())
    assert found["ci"][0] < found["mean"] < found["ci"][1]
    assert all(low < p < high for p, (low, high) in zip(parts, found["part_cis"], strict=True))


def test_one_seed_gives_the_interval_over_sequences() -> None:
    sums = draw(1, 1, 0.0, 0.3)
    found = over_seeds(sums, ratio, 4000).estimate()
    assert found["ci"] == pytest.approx(estimate(sums[0], ratio, 4000).ci, rel=0.02)


@pytest.mark.parametrize(("seed_spread", "sequence_spread"), [(0.2, 0.0), (0.0, 0.3), (0.1, 0.3)])
def test_the_variance_of_the_draws_is_that_of_the_estimate(
    seed_spread: float, sequence_spread: float
) -> None:
    """Over many data sets: unbiased in seeds even with three of them, and in sequences."""
    data = [draw(3, trial, seed_spread, sequence_spread) for trial in range(400)]
    draws = [over_seeds(sums, ratio, 200).values.mean(1) for sums in data]
    truth = np.var([d[0] for d in draws])
    claimed = np.mean([np.var(d[1:]) for d in draws])
    assert claimed == pytest.approx(truth, rel=0.2)


def test_differences_are_paired_in_seeds_and_sequences() -> None:
    sums = draw(3, 2, 0.3, 0.3)
    shifted = [{**s, "error": s["error"] + s["count"][:, None]} for s in sums]
    found = (over_seeds(shifted, ratio) - over_seeds(sums, ratio)).estimate()
    assert found["mean"] == pytest.approx(1)
    assert found["ci"] == pytest.approx([1, 1])


def test_seeds_on_different_texts_are_refused() -> None:
    sums = draw(2, 3, 0.1, 0.1)
    sums[1] = {name: value[:-1] for name, value in sums[1].items()}
    with pytest.raises(CrossproofError, match=r"\[29, 30\] sequences"):
        over_seeds(sums, ratio)
