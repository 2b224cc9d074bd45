"""Balls through norms, MLPs, attentions and logits: no point of a ball leaves what is proved."""

from __future__ import annotations

import math

import pytest
import torch
from dictionaries import F64, random_mlp, standard_rotary
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from crossproof.lm import Activation, AttentionWeights
from crossproof.lm.norms import Norm
from crossproof.lm.unembedding import Unembedding
from crossproof.proof.attribution.balls import (
    AttentionBall,
    LogitBall,
    MLPBall,
    through_norm,
    turned,
)

RADII = st.sampled_from([0.0, 1e-6, 0.1, 1.0, 3.0, 100.0])
WIDTH = 4


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=F64)


def random_norm(generator: torch.Generator, centred: bool) -> Norm:
    return Norm(1 + randn(generator, WIDTH), randn(generator, WIDTH), 1e-4, centred)


def in_ball(generator: torch.Generator, radius: Tensor, count: int) -> Tensor:
    """Displacements [count, ..., D]; most lie on the sphere, where a bound is tested."""
    directions = randn(generator, count, *radius.shape, WIDTH)
    lengths = torch.rand(count, *radius.shape, generator=generator, dtype=F64).mul(2).clamp_max(1)
    return directions / directions.norm(dim=-1, keepdim=True) * (lengths * radius)[..., None]


@examples(40)
@given(seed=st.integers(0, 10_000), radius=RADII, centred=st.booleans())
def test_norms_turn_by_no_more(seed: int, radius: float, centred: bool) -> None:
    generator = draws(seed)
    norm, r = random_norm(generator, centred), randn(generator, 6, WIDTH)
    radii = torch.full((6,), radius, dtype=F64)
    moved = r + in_ball(generator, radii, 200)
    unit = norm.centre(moved) / norm.scale(moved)[..., None]
    here = norm.centre(r) / norm.scale(r)[:, None]
    bound = turned(norm, r, radii)
    assert bool(((unit - here).norm(dim=-1) <= bound + 1e-12).all())
    assert bool(((norm(moved) - norm(r)).norm(dim=-1) <= through_norm(norm, r, radii) + 1e-9).all())
    assert bool((bound <= 2.0001).all())


def test_the_turn_is_attained() -> None:
    norm = Norm(torch.ones(2, dtype=F64), torch.zeros(2, dtype=F64), 1e-12, False)
    r, radius = torch.tensor([[1.0, 0.0]], dtype=F64), torch.tensor([0.6], dtype=F64)
    tangent = torch.tensor([[1 - 0.36, 0.6 * 0.8]], dtype=F64)  # touches the ball's boundary
    truth = (norm.centre(tangent) / norm.scale(tangent)[:, None] - r).norm()
    assert float((tangent - r).norm()) == pytest.approx(0.6)
    assert float(turned(norm, r, radius)[0]) == pytest.approx(float(truth), rel=1e-6)


@examples(40)
@given(
    seed=st.integers(0, 10_000),
    radius=RADII,
    gated=st.booleans(),
    activation=st.sampled_from([Activation.RELU, Activation.GELU_TANH, Activation.SILU]),
)
def test_mlps_spread_by_no_more(
    seed: int, radius: float, gated: bool, activation: Activation
) -> None:
    generator = draws(seed)
    mlp = random_mlp(activation, gated, generator, WIDTH, 7)
    x, radii = randn(generator, 5, WIDTH), torch.full((5,), radius, dtype=F64)
    moved = mlp(x + in_ball(generator, radii, 200)) - mlp(x)
    bound = MLPBall(mlp).spread(x, radii)
    assert bool((moved.norm(dim=-1) <= bound * (1 + 1e-12) + 1e-9).all())


def test_the_spread_of_one_neuron_is_its_jacobian_on_a_small_ball() -> None:
    generator = draws(0)
    mlp = random_mlp(Activation.GELU, False, generator, WIDTH, 1)
    x, radius = randn(generator, 1, WIDTH), torch.tensor([1e-6], dtype=F64)
    jacobian = torch.autograd.functional.jacobian(mlp, x[0])
    truth = float(torch.linalg.matrix_norm(jacobian, 2)) * 1e-6
    bound = float(MLPBall(mlp).spread(x, radius)[0])
    assert truth <= bound <= truth * 1.001


def random_attention(
    generator: torch.Generator, rotary: bool, window: int | None
) -> AttentionWeights:
    heads, groups, width = 4, 2, 2
    return AttentionWeights(
        W_Q=randn(generator, heads, WIDTH, width),
        b_Q=randn(generator, heads, width),
        W_K=randn(generator, groups, WIDTH, width),
        b_K=randn(generator, groups, width),
        W_V=randn(generator, groups, WIDTH, width),
        b_V=randn(generator, groups, width),
        W_O=randn(generator, heads, width, WIDTH),
        b_O=randn(generator, WIDTH),
        scale=1 / math.sqrt(width),
        rotary=standard_rotary(2) if rotary else None,
        window=window,
    )


@examples(30)
@given(
    seed=st.integers(0, 10_000),
    radius=st.sampled_from([1e-6, 0.03, 0.3, 3.0]),
    rotary=st.booleans(),
    window=st.sampled_from([None, 2]),
)
def test_attentions_spread_by_no_more(
    seed: int, radius: float, rotary: bool, window: int | None
) -> None:
    generator = draws(seed)
    attention = random_attention(generator, rotary, window)
    x = randn(generator, 2, 5, WIDTH)
    radii = radius * torch.rand(2, 5, generator=generator, dtype=F64)
    radii[0, 0] = 0
    moved = attention(x + in_ball(generator, radii, 100)) - attention(x)
    bound = AttentionBall(attention).spread(x, radii)
    assert bool((moved.norm(dim=-1) <= bound + 1e-9).all())


def test_scores_that_move_as_far_as_they_may_move_by_the_error() -> None:
    """Queries and keys that are parallel and grow together: (c + ρ)² - c²."""
    eye, zero = torch.eye(2, dtype=F64)[None], torch.zeros(1, 2, dtype=F64)
    weights = AttentionWeights(eye, zero, eye, zero, eye, zero, eye, zero[0], scale=0.5)
    x = torch.tensor([[[3.0, 0.0], [2.0, 0.0]]], dtype=F64)
    moved = weights.scores(x + torch.tensor([0.7, 0.0], dtype=F64)) - weights.scores(x)
    bound = AttentionBall(weights)._score_error(0, x, torch.full((1, 2), 0.7, dtype=F64))
    torch.testing.assert_close(bound, moved[:, 0], rtol=1e-9, atol=0)


def test_an_attention_does_not_move_without_a_radius() -> None:
    attention = random_attention(draws(0), False, None)
    x = randn(draws(1), 2, 5, WIDTH)
    assert AttentionBall(attention).spread(x, torch.zeros(2, 5, dtype=F64)).abs().max() == 0


@examples(40)
@given(seed=st.integers(0, 10_000), radius=RADII, centred=st.booleans())
def test_no_point_of_a_ball_has_a_larger_loss(seed: int, radius: float, centred: bool) -> None:
    generator = draws(seed)
    norm = random_norm(generator, centred)
    view = Unembedding(norm, randn(generator, 9, WIDTH), randn(generator, 9))
    r, labels = randn(generator, 5, WIDTH), torch.tensor([0, 3, 3, 8, 1])
    radii = torch.full((2, 5), radius, dtype=F64)
    radii[1] *= 2
    bounds = LogitBall(view).loss_bounds(r, labels, radii)
    assert bool((bounds[1] >= bounds[0]).all())
    moved = view(r + in_ball(generator, radii[0], 200))
    losses = torch.nn.functional.cross_entropy(
        moved.flatten(0, 1), labels.repeat(200), reduction="none"
    )
    assert bool((losses.view(200, 5) <= bounds[0] + 1e-9).all())
    claimed = LogitBall(view).claimed_losses(r, labels)
    at_zero = LogitBall(view).loss_bounds(r, labels, torch.zeros(1, 5, dtype=F64))[0]
    torch.testing.assert_close(at_zero, claimed, rtol=1e-9, atol=1e-9)


def test_forgetting_the_radius_is_noticed() -> None:
    generator = draws(1)
    norm = random_norm(generator, True)
    view = Unembedding(norm, randn(generator, 9, WIDTH), randn(generator, 9))
    r, labels = randn(generator, 5, WIDTH), torch.tensor([0, 3, 3, 8, 1])
    bound = LogitBall(view).loss_bounds(r, labels, torch.zeros(1, 5, dtype=F64))[0]
    moved = view(r + in_ball(generator, torch.full((5,), 0.3, dtype=F64), 200))
    losses = torch.nn.functional.cross_entropy(
        moved.flatten(0, 1), labels.repeat(200), reduction="none"
    )
    assert bool((losses.view(200, 5) > bound).any(0).all())
