"""T1c: the first-order part of what a simplified neuron misses is exact, the rest is bounded."""

from __future__ import annotations

import pytest
import torch
from bound_checks import PEAK
from dictionaries import F64, random_case
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.lm import Activation
from crossproof.lm.constants import lipschitz
from crossproof.proof.bounds import (
    centred_gap,
    centred_slope,
    linear_path,
)

SEEDS = st.integers(0, 2**31)
CASES = given(
    seed=SEEDS,
    activation=st.sampled_from(list(Activation)),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    error=st.sampled_from([0.0, 0.1, 1.0, 1e4]),
)
EXAMPLES = examples(60)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def ends(seed: int, scale: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of random intervals, some of them points."""
    pair = scale * noise(seed, 2, 64)
    pair[1, :8] = pair[0, :8]
    return pair.amin(0), pair.amax(0)


@EXAMPLES
@CASES
def test_the_centred_gap_bounds_what_first_order_misses(
    seed: int, activation: Activation, scale: float, error: float
) -> None:
    case = random_case(seed, activation, scale=scale, error=error)
    signs = noise(seed, *case.activations.shape).sign()
    latents = SparseLatents.from_dense(case.activations * signs)
    path = linear_path(case.view, latents, case.x)
    found = centred_gap(activation, path)
    missed = activation(path.true) - activation(path.kept) - found.step
    assert bool((missed.abs() <= found.gap + 1e-13 * (1 + path.true.abs() + path.kept.abs())).all())


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)), st.sampled_from([0.1, 1.0, 10.0]))
def test_no_functional_is_bounded_worse_than_by_t1(
    seed: int, activation: Activation, scale: float
) -> None:
    """|s| + ω/2 is L on every interval, so s t - (ω/2)|t| is never below -L |t|."""
    low, high = ends(seed, scale)
    slope, half = centred_slope(activation, low, high)
    slack = 1e-14 * (1 + half)
    L = lipschitz(activation, low, high)
    assert bool(((slope.abs() + half - L).abs() <= slack).all())
    moved, weight = noise(seed + 1, 64), noise(seed + 2, 64)
    centred = weight * slope * moved - weight.abs() * half * moved.abs()
    assert bool((centred >= -weight.abs() * L * moved.abs() - 1e-13).all())


def test_a_relu_that_does_not_cross_its_kink_is_exact() -> None:
    """Gap 0, not merely small; half of the move where it does cross."""
    low = torch.tensor([-3.0, 0.0, 0.5, -1.0], dtype=F64)
    high = torch.tensor([-1.0, 2.0, 0.5, 1.0], dtype=F64)
    slope, half = centred_slope(Activation.RELU, low, high)
    assert slope.tolist() == [0, 1, 1, 0.5]
    assert half.tolist() == [0, 0, 0, 0.5]


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)))
def test_the_residuals_first_order_part_is_one_functional(
    seed: int, activation: Activation
) -> None:
    """sum <u, o_n> s_n t_n = <ε, W_in diag(s) W_out u> + the same of the latents not kept."""
    case = random_case(seed, activation)
    path = linear_path(case.view, case.latents, case.x)
    found = centred_gap(activation, path)
    slope, _ = centred_slope(activation, *path.between(path.true, path.kept))
    u = noise(seed, case.mlp.d_model)
    readout = case.mlp.W_out @ u
    pulled = (slope * readout) @ case.mlp.W_in.T
    of_residual = (pulled * (case.x - case.x_hat)).sum(1)
    of_latents = (slope * path.signed_rest) @ readout
    expected = of_residual + of_latents
    torch.testing.assert_close(found.step @ readout, expected, rtol=1e-8, atol=1e-7)
    size = pulled.norm(dim=1) * (case.x - case.x_hat).norm(dim=1)
    assert bool((of_residual.abs() <= size * (1 + 1e-12)).all())


@pytest.mark.parametrize("activation", [a for a in Activation if a is not Activation.IDENTITY])
def test_an_attack_reaches_half_the_oscillation_and_never_passes_it(
    activation: Activation,
) -> None:
    """J holds both critical points; gradient ascent moves z and z' inside it."""
    edge = torch.tensor(1.5 * PEAK[activation], dtype=F64)
    slope, half = centred_slope(activation, -edge, edge)
    raw = noise(3, 2, 64).requires_grad_()
    adam = torch.optim.Adam([raw], lr=0.05)

    def ratio() -> Tensor:
        z, other = edge * torch.tanh(raw)
        gap = (z - other).abs()
        missed = (activation(z) - activation(other) - slope * (z - other)).abs()
        return torch.where(gap > 1e-3, missed / (half * gap), 0)

    best = 0.0
    for _ in range(150):
        adam.zero_grad()
        values = ratio()
        best = max(best, float(values.detach().max()))
        (-values.sum()).backward()
        adam.step()
    assert 0.99 <= best <= 1 + 1e-9
