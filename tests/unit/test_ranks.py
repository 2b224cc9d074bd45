"""Spearman's ρ between measures of the same pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dictionaries import F64
from scipy.stats import spearmanr

from crossproof.errors import CrossproofError
from paper.measuring.ranks import rank_correlations


def measures(pairs: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(pairs, generator=generator, dtype=F64)
    noise = torch.randn(pairs, generator=generator, dtype=F64)
    ties = torch.randint(0, 4, (pairs,), generator=generator)
    return {"I": base, "Q": base + noise, "co-activation": ties, "opposite": -base.exp()}


def test_they_equal_scipys_with_ties() -> None:
    named = measures()
    result = rank_correlations(named)
    columns = np.stack([v.numpy() for v in named.values()], 1)
    np.testing.assert_allclose(result.rho, spearmanr(columns).statistic, atol=1e-12)
    assert result.names == tuple(named)
    assert result.low is result.high is None
    assert result.rho[0, 3] == pytest.approx(-1)  # exp does not change ranks


def test_rows_name_every_two_measures_once() -> None:
    result = rank_correlations(measures(), resamples=50)
    rows = list(result.rows())
    assert [(row.left, row.right) for row in rows[:4]] == [
        ("I", "Q"),
        ("I", "co-activation"),
        ("I", "opposite"),
        ("Q", "co-activation"),
    ]
    assert len(rows) == 6
    assert rows[0].rho == result.rho[0, 1]
    assert rows[0].ci == (result.low[0, 1], result.high[0, 1])
    assert all(row.ci is None for row in rank_correlations(measures()).rows())


def test_intervals_hold_the_estimate_narrow_with_pairs_and_follow_the_seed() -> None:
    few, many = (rank_correlations(measures(n), resamples=300) for n in (40, 1000))
    for result in (few, many):
        assert (result.low <= result.rho + 1e-9).all()
        assert (result.rho <= result.high + 1e-9).all()
    width = few.high[0, 1] - few.low[0, 1]
    # An interval narrows like the root of the number of pairs: by 5.
    assert 3 < width / (many.high[0, 1] - many.low[0, 1]) < 8
    again, other = (rank_correlations(measures(), resamples=300, seed=s) for s in (0, 1))
    np.testing.assert_array_equal(again.low, few.low)
    assert not np.array_equal(other.low, few.low)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of two normal variables with correlation r, ρ is 6/π · arcsin(r/2)."""
    rng, covered, r = np.random.default_rng(0), 0, 0.6
    truth = 6 / np.pi * np.arcsin(r / 2)
    for seed in range(40):
        x, noise = torch.from_numpy(rng.normal(size=(2, 150)))
        named = {"x": x, "y": r * x + (1 - r**2) ** 0.5 * noise}
        row = next(iter(rank_correlations(named, resamples=150, seed=seed).rows()))
        covered += row.ci[0] <= truth <= row.ci[1]
    assert 34 <= covered <= 40  # 95% of 40 is 38


def test_draws_in_which_a_measure_is_constant_are_left_out() -> None:
    rare = torch.zeros(8)
    rare[0] = 1
    result = rank_correlations({"x": torch.arange(8.0), "rare": rare}, resamples=200)
    assert np.isfinite(result.low).all()
    assert np.isfinite(result.high).all()


def test_bad_input_is_refused() -> None:
    x = torch.arange(5.0)
    with pytest.raises(CrossproofError, match="at least two measures"):
        rank_correlations({"x": x})
    with pytest.raises(CrossproofError, match="different numbers of pairs: x 5, y 4"):
        rank_correlations({"x": x, "y": x[:4]})
    with pytest.raises(CrossproofError, match="of 2 pairs mean nothing"):
        rank_correlations({"x": x[:2], "y": x[:2]})
    with pytest.raises(CrossproofError, match="'y' is NaN or infinite"):
        rank_correlations({"x": x, "y": x.log() * 0})
    with pytest.raises(CrossproofError, match="'y' is the same for all pairs"):
        rank_correlations({"x": x, "y": torch.ones(5)})
