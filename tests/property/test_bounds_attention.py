"""Attention: scores are bilinear, softmax is stable, values are linear; for any numbers."""

from __future__ import annotations

import math

import pytest
import torch
from dictionaries import F64
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples
from rounding import gamma
from theory.attention import (
    bilinear_scores,
    dominant_pair,
    extremal_average,
    score_error,
    score_residual,
    value_error,
    weight_interval,
)
from torch import Tensor

from crossproof.proof.bounds import (
    functional_value_error,
    value_residual,
    variation_of_error,
    variation_of_range,
)

EXAMPLES = examples(60)
SEEDS = st.integers(0, 2**31)
KEYS = st.integers(1, 8)
SHIFTS = st.sampled_from([0.0, 0.01, 0.5, 3.0, 40.0])


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def below(small: Tensor, large: Tensor) -> bool:
    return bool((small <= large * (1 + 1e-9) + 1e-12).all())


def variation(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).abs().sum(-1) / 2


@EXAMPLES
@given(SEEDS, st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_pair_scores_add_up_and_the_error_bounds_what_is_dropped(
    seed: int, left: int, right: int, rotary: bool
) -> None:
    """Two tokens each, one form per pair of positions where `rotary`."""
    width, scale = 4, 3**-0.5
    query, key = noise(seed, 2, left + 1, width), noise(seed + 1, 2, right + 1, width)
    form = noise(seed + 2, 2, width, width) if rotary else noise(seed + 2, width, width)
    scores = bilinear_scores(query, key, form, scale)
    x_hat, y_hat = query.sum(1), key.sum(1)
    whole = (x_hat[:, None] @ form @ y_hat[:, :, None])[:, 0, 0] * scale
    torch.testing.assert_close(scores.sum((1, 2)), whole)

    kept = noise(seed + 3, *scores.shape) > 0
    x_error, y_error = noise(seed + 4, 2, width), noise(seed + 5, 2, width)
    residual = score_residual((x_hat, x_error), (y_hat, y_error), form, scale)
    x, y = x_hat + x_error, y_hat + y_error
    true = (x[:, None] @ form @ y[:, :, None])[:, 0, 0] * scale
    abstract = torch.where(kept, scores, 0).sum((1, 2))
    assert below((true - abstract).abs(), score_error(scores, kept, residual))
    assert below((whole - abstract).abs(), score_error(scores, kept))
    nothing_dropped = score_error(scores, torch.ones_like(kept))
    assert nothing_dropped.tolist() == [0.0, 0.0]


@EXAMPLES
@given(SEEDS)
def test_the_dominant_pair_drops_least_of_all_single_pairs(seed: int) -> None:
    scores = noise(seed, 3, 4, 5).round()  # rounding makes ties
    kept = dominant_pair(scores)
    assert kept.sum((1, 2)).tolist() == [1, 1, 1]
    ours = score_error(scores, kept)
    for i in range(4):
        for j in range(5):
            single = torch.zeros_like(kept)
            single[:, i, j] = True
            assert below(ours, score_error(scores, single))


@EXAMPLES
@given(SEEDS, KEYS, SHIFTS)
@example(seed=506062, keys=6, size=3.0)
@example(seed=128, keys=7, size=3.0)
def test_softmax_moves_by_at_most_the_lemmas(seed: int, keys: int, size: float) -> None:
    scores, shift = 3 * noise(seed, 5, keys), size * noise(seed + 1, 5, keys)
    A, A_hat = (scores + shift).softmax(1), scores.softmax(1)
    width, tau = shift.amax(1) - shift.amin(1), shift.abs().amax(1)
    moved = variation(A, A_hat)
    assert below(moved, variation_of_range(width))
    assert below(variation_of_range(width), variation_of_error(tau))
    low, high = weight_interval(A_hat, shift.abs())
    assert below(low, A)
    assert below(A, high)
    # The multiplicative sandwich, and the interval inside it.
    spread = (2 * tau).exp()[:, None]
    assert below(A, spread * A_hat)
    assert below(A_hat / spread, A)
    assert below(high, (spread * A_hat).clamp_max(1))
    # The interval is widened by what rounding may do to it, which grows with e^{2τ}.
    assert below(A_hat / spread, low + 8 * gamma(2 * keys + 16) * spread)


@EXAMPLES
@given(SEEDS, KEYS)
def test_the_weight_interval_is_attained(seed: int, keys: int) -> None:
    scores, tau = noise(seed, 1, keys), noise(seed + 1, 1, keys).abs()
    low, high = weight_interval(scores.softmax(1), tau)
    for key in range(keys):
        own = torch.nn.functional.one_hot(torch.tensor([key]), keys) * 2 - 1
        torch.testing.assert_close((scores + tau * own).softmax(1)[0, key], high[0, key])
        torch.testing.assert_close((scores - tau * own).softmax(1)[0, key], low[0, key])


def test_an_enormous_error_says_nothing_and_makes_no_nan() -> None:
    halves, tau = torch.tensor([[0.5, 0.5, 0.0]], dtype=F64), torch.full((1, 3), 1e6, dtype=F64)
    low, high = weight_interval(halves, tau)
    assert low.tolist() == [[0, 0, 0]]
    assert high.tolist() == [[1, 1, 1]]
    assert variation_of_error(torch.tensor([1e300], dtype=F64)).tolist() == [1.0]
    assert variation_of_error(torch.zeros(1, dtype=F64)).item() < 1e-300


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_an_attack_on_softmax_reaches_both_lemmas(size: float) -> None:
    """Ascent over scores and bounded shifts: total variation comes to tanh(w/4) and tanh(τ/2)."""
    logits = noise(0, 8, 4).requires_grad_()
    shift = noise(1, 8, 4).requires_grad_()
    adam = torch.optim.Adam([logits, shift], lr=0.1)
    for _ in range(400):
        bounded = size * torch.tanh(shift)
        moved = variation((logits + bounded).softmax(1), logits.softmax(1))
        adam.zero_grad()
        (-moved.sum()).backward()
        adam.step()
    moved, bounded = moved.detach(), bounded.detach()
    tau = torch.full_like(moved, size)
    assert 0.99 <= (moved / variation_of_error(tau)).max() <= 1 + 1e-9
    width = bounded.amax(1) - bounded.amin(1)
    assert 0.99 <= (moved / variation_of_range(width)).max() <= 1 + 1e-9


@EXAMPLES
@given(SEEDS, KEYS, SHIFTS)
def test_values_move_by_variation_times_range(seed: int, keys: int, size: float) -> None:
    scores, shift = noise(seed, 5, keys), size * noise(seed + 1, 5, keys)
    A, A_hat = (scores + shift).softmax(1), scores.softmax(1)
    values, u = noise(seed + 2, 5, keys, 3) + 100, noise(seed + 3, 3)
    moved = ((A - A_hat)[:, None] @ values)[:, 0]
    bound = variation(A, A_hat)
    assert below(moved.norm(dim=1), value_error(bound, values) + 1e-9)
    through_u = functional_value_error(bound, values @ u)
    assert below((moved @ u).abs(), through_u + 1e-9)
    # The range forgets what all values share; a norm would not.
    torch.testing.assert_close(
        functional_value_error(bound, (values - 100) @ u), through_u, rtol=1e-6, atol=1e-9
    )
    assert below(through_u, u.norm() * value_error(bound, values) + 1e-9)


@EXAMPLES
@given(SEEDS, KEYS, SHIFTS)
def test_the_residual_of_values_is_averaged_by_the_true_weights(
    seed: int, keys: int, size: float
) -> None:
    scores, shift = noise(seed, 5, keys), size * noise(seed + 1, 5, keys)
    A, A_hat = (scores + shift).softmax(1), scores.softmax(1)
    errors = noise(seed + 2, 5, keys, 3)
    moved = (A[:, None] @ errors)[:, 0].norm(dim=1)
    bound = value_residual(A_hat, variation(A, A_hat), errors.norm(dim=2))
    assert below(moved, bound)
    assert below((A * errors.norm(dim=2)).sum(1), bound)


@EXAMPLES
@given(SEEDS, st.integers(2, 6))
def test_the_range_form_is_attained_by_two_keys(seed: int, keys: int) -> None:
    values = noise(seed, 1, keys)
    A, A_hat = torch.zeros(1, keys, dtype=F64), torch.zeros(1, keys, dtype=F64)
    A[0, values.argmax()] = 0.7
    A[0, values.argmin()] = 0.3
    A_hat[0, values.argmax()] = 0.2
    A_hat[0, values.argmin()] = 0.8
    moved = ((A - A_hat) * values).sum(1)
    torch.testing.assert_close(moved, functional_value_error(variation(A, A_hat), values))


@EXAMPLES
@given(SEEDS, KEYS, SHIFTS)
def test_the_extremal_average_bounds_every_attention_in_the_interval(
    seed: int, keys: int, size: float
) -> None:
    scores, tau = noise(seed, 6, keys), size * noise(seed + 1, 6, keys).abs()
    values = noise(seed + 2, 6, keys)
    A_hat = scores.softmax(1)
    low, high = weight_interval(A_hat, tau)
    most, least = extremal_average(values, low, high), -extremal_average(-values, low, high)
    for attempt in range(10):
        A = (scores + tau * torch.tanh(2 * noise(seed + 3 + attempt, 6, keys))).softmax(1)
        average = (A * values).sum(1)
        assert (average <= most + 1e-9).all(), attempt
        assert (average >= least - 1e-9).all(), attempt


def test_the_extremal_average_equals_brute_force() -> None:
    """Three keys: vertices of {low ≤ A ≤ high, sum A = 1} leave one key between its ends."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        centre = torch.rand(3, generator=generator, dtype=F64)
        centre = centre / centre.sum()
        low = (centre - 0.3 * torch.rand(3, generator=generator, dtype=F64)).clamp_min(0)
        high = (centre + 0.3 * torch.rand(3, generator=generator, dtype=F64)).clamp_max(1)
        values = torch.randn(3, generator=generator, dtype=F64)
        best = -math.inf
        for free in range(3):
            for pattern in range(4):
                fixed = [k for k in range(3) if k != free]
                A = centre.clone()
                for bit, k in enumerate(fixed):
                    A[k] = (low, high)[pattern >> bit & 1][k]
                A[free] = 1 - A[fixed].sum()
                if low[free] - 1e-12 <= A[free] <= high[free] + 1e-12:
                    best = max(best, (A * values).sum().item())
        ours = extremal_average(values[None], low[None], high[None]).item()
        assert ours == pytest.approx(best, abs=1e-9)
