"""The inequalities of the theory hold for any numbers, and only with the right constants."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from dictionaries import F64, Case, random_case
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import LIPSCHITZ, DenseMLP, DenseView
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.interactions import (
    MLPDictionary,
    additive_interaction,
    dominant_contributions,
    dominant_share,
    interaction,
    residual,
)
from crossproof.lm import Activation, MLPWeights
from crossproof.lm.constants import LIPSCHITZ as OUR_LIPSCHITZ

SLACK = 1e-9
CASES = examples(60)


def cases(gated: bool | None = None) -> st.SearchStrategy[Case]:
    return st.builds(
        random_case,
        seed=st.integers(0, 2**31),
        activation=st.sampled_from(list(Activation)),
        gated=st.booleans() if gated is None else st.just(gated),
        scale=st.sampled_from([0.1, 1.0, 3.0, 10.0]),
        error=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    )


def bound(case: Case) -> Tensor:
    """R + L·I, or R + I where I carries its constant (gated)."""
    view, latents = case.view, case.latents
    charge = interaction(view, latents, view.dominance(latents))
    slope = 1.0 if case.mlp.gated else OUR_LIPSCHITZ[case.mlp.activation]
    return residual(view, case.x, case.x_hat) + slope * charge


def kept_error(case: Case) -> Tensor:
    dominance = case.view.dominance(case.latents)
    return (case.mlp(case.x) - case.view.output(dominance.value, dominance.gate)).norm(dim=1)


@CASES
@given(cases())
def test_keeping_one_latent_costs_at_most_residual_plus_interaction(case: Case) -> None:
    assert (kept_error(case) <= bound(case) * (1 + SLACK) + SLACK).all()


@CASES
@given(cases())
def test_without_residual_the_interaction_alone_bounds_the_error(case: Case) -> None:
    exact = Case(case.mlp, case.decoder, case.bias, case.activations, case.x_hat)
    assert residual(exact.view, exact.x, exact.x_hat).abs().max() == 0
    assert (kept_error(exact) <= bound(exact) * (1 + SLACK) + SLACK).all()


@CASES
@given(cases(gated=False))
def test_the_additive_form_bounds_the_additive_error(case: Case) -> None:
    view, latents = case.view, case.latents
    ours = additive_interaction(view, latents, view.dominance(latents))
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    error = (case.mlp(case.x_hat) - dense.additive_output()).norm(dim=1)
    assert (error <= ours * (1 + SLACK) + SLACK).all()
    swing = 2 * LIPSCHITZ[case.mlp.activation.value] - 1
    charge = interaction(view, latents, view.dominance(latents))
    assert (ours <= swing * charge * (1 + SLACK) + SLACK).all()


@CASES
@given(cases())
def test_measures_equal_the_dense_formulas(case: Case) -> None:
    view, latents = case.view, case.latents
    dominance = view.dominance(latents)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    close = {"rtol": 1e-9, "atol": 1e-9}
    charge = interaction(view, latents, dominance)
    torch.testing.assert_close(charge, dense.interaction(), **close)
    torch.testing.assert_close(
        residual(view, case.x, case.x_hat), dense.residual(case.x, case.x_hat), **close
    )
    torch.testing.assert_close(dominant_share(view, latents, dominance), dense.share(), **close)
    output = view.output(dominance.value, dominance.gate)
    torch.testing.assert_close(output, dense.dominant_output(), **close)
    torch.testing.assert_close(view.output(*view.sums(latents)), case.mlp(case.x_hat), **close)


@CASES
@given(cases())
def test_no_latent_or_one_latent_never_interacts(case: Case) -> None:
    view, latents = case.view, case.latents
    dominance = view.dominance(latents)
    # Tokens 0 and 1 have no and one active latent: zero exactly, not up to rounding.
    assert interaction(view, latents, dominance)[:2].tolist() == [0.0, 0.0]
    assert (dominant_share(view, latents, dominance)[:2] == 1).all()
    assert (dominance.owner[0] == -1).all()


def test_one_latent_never_interacts_in_single_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(*s, generator=generator) for s in [(16, 64), (64,), (64, 16), (16,)]]
    decoder = torch.randn(7, 16, generator=generator)
    view = MLPDictionary.build(MLPWeights(*draw, Activation.GELU), decoder, torch.zeros(16))
    latents = SparseLatents.from_dense(torch.eye(7) * 3.3)
    assert interaction(view, latents, view.dominance(latents)).tolist() == [0.0] * 7


def test_latents_that_a_neuron_adds_up_have_no_additive_interaction() -> None:
    case = random_case(1, Activation.RELU)
    case.mlp.b_in.fill_(1e3)  # every neuron stays on
    view, latents = case.view, case.latents
    dominance = view.dominance(latents)
    assert additive_interaction(view, latents, dominance).abs().max() == 0
    assert interaction(view, latents, dominance)[2:].min() > 0.1


def test_the_lowest_latent_owns_a_tie_and_a_sign_does_not_matter() -> None:
    G = torch.tensor([[1.0, -2.0], [-1.0, 2.0], [0.5, 1.0]])
    latents = SparseLatents.from_dense(torch.tensor([[2.0, 2.0, 1.0]]))
    value, owner = dominant_contributions(latents, G)
    assert value.tolist() == [[2.0, -4.0]]
    assert owner.tolist() == [[0, 0]]


def one_neuron(activation: Activation, baseline: Tensor, contributions: Tensor) -> Case:
    """Neurons that share their latents' contributions [B, H] but have their own baselines [B]."""
    weights = MLPWeights(
        torch.ones(1, 1, dtype=F64),
        baseline.detach().reshape(1).to(F64),
        torch.ones(1, 1, dtype=F64),
        torch.zeros(1, dtype=F64),
        activation,
    )
    signs = contributions.sign()[:, None].to(F64)
    size = contributions.abs()[None].to(F64)
    zero = torch.zeros(1, dtype=F64)
    return Case(weights, signs, zero, size, size @ signs)


def ascend(ratio: Callable[[Tensor], Tensor], starts: Tensor) -> Tensor:
    """The best of several gradient ascents, one a row of `starts`."""
    points = starts.clone().requires_grad_()
    adam = torch.optim.Adam([points], lr=0.05)
    for _ in range(300):
        adam.zero_grad()
        (-ratio(points).sum()).backward()
        adam.step()
    return points.detach()[ratio(points).argmax()]


CURVED = [a for a in Activation if a not in (Activation.RELU, Activation.IDENTITY)]


@pytest.mark.parametrize("activation", CURVED)
def test_a_lipschitz_constant_of_one_is_refuted_and_the_true_one_is_tight(
    activation: Activation,
) -> None:
    """Searches a neuron (baseline, dominant, second contribution) where the error is largest."""

    def ratio(points: Tensor) -> Tensor:
        baseline, second = points[:, 0], points[:, 1].abs() + 1e-3
        first = second + 1  # dominant
        gap = activation(baseline + first + second) - activation(baseline + first)
        return gap.abs() / second

    grid = torch.cartesian_prod(torch.linspace(-4, 4, 9), torch.tensor([0.1, 1.0]))
    best = ascend(ratio, grid.to(F64))
    second = best[1].abs() + 1e-3
    case = one_neuron(activation, best[0], torch.stack([second + 1, second]))
    charge = interaction(case.view, case.latents, case.view.dominance(case.latents))
    error = kept_error(case)
    assert (error > charge * 1.05).all()  # L = 1 would be unsound
    assert (error <= bound(case) * (1 + SLACK)).all()
    assert (error >= 0.999 * bound(case)).all()


@pytest.mark.parametrize("activation", CURVED)
def test_an_oscillation_of_one_is_refuted_and_the_true_one_is_tight(
    activation: Activation,
) -> None:
    def ratio(points: Tensor) -> Tensor:
        baseline, first, second = points[:, 0], points[:, 1], points[:, 2].abs() + 1e-3
        total = activation(baseline + first + second) - activation(baseline + first)
        return (total - activation(baseline + second) + activation(baseline)).abs() / second

    grid = torch.cartesian_prod(
        torch.linspace(-4, 4, 9), torch.tensor([2.0, 4.0]), torch.tensor([0.05])
    )
    best = ascend(ratio, grid.to(F64))
    second = best[2].abs() + 1e-3
    case = one_neuron(activation, best[0], torch.stack([best[1], second]))
    view, latents = case.view, case.latents
    dominance = view.dominance(latents)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    error = (case.mlp(case.x_hat) - dense.additive_output()).norm(dim=1)
    ours = additive_interaction(view, latents, dominance)
    assert (error > interaction(view, latents, dominance) * 1.05).all()  # ω = 1 is unsound
    assert (error <= ours * (1 + SLACK)).all()
    assert (error >= 0.99 * ours).all()


def test_dropping_the_residual_is_refuted() -> None:
    case = random_case(3, error=1.0)
    charge = interaction(case.view, case.latents, case.view.dominance(case.latents))
    slope = LIPSCHITZ["gelu"]
    assert (kept_error(case) > slope * charge * (1 + SLACK)).any()


def test_signed_choice_of_the_dominant_latent_is_worse() -> None:
    case = random_case(4)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    signed = dense.p.gather(2, dense.p.argmax(2, keepdim=True))[..., 0].abs()
    wrong = (dense.p.abs().sum(2) - signed) @ dense.mlp.norms()
    ours = interaction(case.view, case.latents, case.view.dominance(case.latents))
    assert (wrong >= ours - SLACK).all()
    assert (wrong > 1.05 * ours).any()
    assert math.isfinite(wrong.sum())
