from __future__ import annotations

import numpy as np
import pytest

from crossproof.evaluation.intervals import Sums, estimate


def ratio(totals: Sums) -> np.ndarray:
    return totals["error"] / totals["count"][:, None]


def draw(seed: int, sequences: int = 40) -> Sums:
    """Per-sequence sums whose ratio is 2 and 5 in its two parts, sequences being of two kinds."""
    rng = np.random.default_rng(seed)
    count = rng.integers(5, 30, sequences).astype(float)
    kind = rng.normal(1, 0.3, (sequences, 1))
    return {"count": count, "error": count[:, None] * kind * np.array([2.0, 5.0])}


def test_the_estimate_is_the_statistic_of_the_totals() -> None:
    sums = draw(0)
    figure = estimate(sums, ratio, 50)
    parts = sums["error"].sum(0) / sums["count"].sum()
    assert figure.parts == pytest.approx(parts)
    assert figure.mean == pytest.approx(parts.mean())
    assert figure.ci[0] < figure.mean < figure.ci[1]


def test_a_part_that_is_not_defined_is_left_out_where_that_is_asked() -> None:
    sums = draw(0)
    sums = {**sums, "error": np.concatenate([sums["error"], np.full((40, 1), np.nan)], axis=1)}
    whole, some = (estimate(sums, ratio, 50, where_defined=each) for each in (False, True))
    assert np.isnan(whole.mean)
    assert some.mean == pytest.approx(estimate(draw(0), ratio, 50).mean)
    assert some.ci == pytest.approx(estimate(draw(0), ratio, 50).ci)
    assert np.isnan(some.parts[2])
    assert some.parts[:2] == whole.parts[:2]
    nothing = {**sums, "error": np.full((40, 2), np.nan)}
    assert np.isnan(estimate(nothing, ratio, 50, where_defined=True).mean)


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    sums = draw(0)
    assert estimate(sums, ratio, 200, seed=3) == estimate(sums, ratio, 200, seed=3)
    assert estimate(sums, ratio, 200, seed=3).ci != estimate(sums, ratio, 200, seed=4).ci


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, covered = 3.5, 0
    for seed in range(300):
        low, high = estimate(draw(seed), ratio, 300, seed).ci
        covered += low <= truth <= high
    assert 0.88 <= covered / 300 <= 0.98


def test_the_interval_is_that_of_resampled_sequences() -> None:
    """Against a loop that draws sequences one by one."""
    sums, rng, means = draw(1), np.random.default_rng(99), []
    for _ in range(4000):
        chosen = rng.integers(0, 40, 40)
        error, count = sums["error"][chosen].sum(0), sums["count"][chosen].sum()
        means.append((error / count).mean())
    expected = np.quantile(means, [0.025, 0.975])
    assert estimate(sums, ratio, 4000).ci == pytest.approx(expected, rel=0.02)


def test_one_sequence_alone_has_no_interval() -> None:
    figure = estimate(draw(0, sequences=1), ratio)
    assert figure.mean == pytest.approx(np.mean(figure.parts))
    assert figure.ci is None


def test_identical_sequences_leave_no_doubt() -> None:
    sums = {"count": np.full(5, 3.0), "error": np.full((5, 1), 6.0)}
    assert estimate(sums, ratio).ci == (2.0, 2.0)


def test_no_public_name_is_hidden_by_a_module_of_its_name() -> None:
    """`import crossproof.evaluation.X` would put the module where the function X was."""
    import importlib
    import pkgutil

    for package in ("crossproof", "crossproof.evaluation", "crossproof.interactions"):
        found = importlib.import_module(package)
        modules = {module.name for module in pkgutil.iter_modules(found.__path__)}
        assert not modules & set(found.__all__), package
