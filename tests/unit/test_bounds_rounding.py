"""Rounding slack against Arb: what float64 computes stays within what it is said to be off by."""

from __future__ import annotations

import math

import pytest
import torch
from dictionaries import F64, Case, random_case, random_mlp
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from theory.functionals import (
    functional_bound,
    margin_bound,
)
from theory.rounding import mlp_slack, preactivation_slack
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.lm import Activation, MLPWeights
from crossproof.lm.constants import activation_slack, oscillation
from crossproof.proof.attribution.balls import MLPBall
from crossproof.proof.bounds import (
    Preactivations,
    additive_bound,
    additive_gap,
    centred_gap,
    contributions,
    cross_entropy_bound,
    dominant_gap,
    gate_path,
    gated_gap,
    gram_bound,
    linear_path,
    spectral_norm,
)
from crossproof.rounding import (
    gamma,
    length,
    product_bound,
    product_slack,
    upward,
)

EXAMPLES = examples(10)
SEEDS = st.integers(0, 2**31)


@pytest.fixture(autouse=True)
def precision() -> None:
    ctx.prec = 200


def exact(activation: Activation, x: arb) -> arb:
    """σ in ball arithmetic, with the constants that the float model has."""
    match activation:
        case Activation.RELU:
            return x if x > 0 else arb(0)
        case Activation.GELU:
            return x * (1 + (x / arb(2).sqrt()).erf()) / 2
        case Activation.GELU_TANH:
            c = arb(44715) / 1_000_000
            return x / (1 + (-2 * (2 / arb.pi()).sqrt() * (x + c * x * x * x)).exp())
        case Activation.SILU:
            return x / (1 + (-x).exp())
        case Activation.QUICK_GELU:
            return x / (1 + (-(x * arb(1.702))).exp())
        case _:
            return x


def balls(tensor: Tensor) -> list[arb]:
    return [arb(value) for value in tensor.flatten().tolist()]


def product(x: Tensor, W: Tensor, b: Tensor) -> list[arb]:
    """x W + b of one row, exactly."""
    left = balls(x)
    columns = [balls(column) for column in W.T]
    return [
        sum((p * q for p, q in zip(left, column, strict=True)), offset)
        for column, offset in zip(columns, balls(b), strict=True)
    ]


def exact_neurons(mlp: MLPWeights, x: Tensor) -> list[arb]:
    linear = product(x, mlp.W_in, mlp.b_in)
    if mlp.W_gate is None or mlp.b_gate is None:
        return [exact(mlp.activation, z) for z in linear]
    gate = product(x, mlp.W_gate, mlp.b_gate)
    return [exact(mlp.activation, g) * z for g, z in zip(gate, linear, strict=True)]


def within(computed: Tensor, truth: list[arb], slack: Tensor) -> bool:
    triples = zip(balls(computed), truth, balls(slack), strict=True)
    return all(abs(c - t) <= s for c, t, s in triples)


def test_gamma_is_rounded_up_and_refuses_endless_sums() -> None:
    ctx.prec = 200
    for k in (0, 1, 7, 4096, 10**9):
        unit = arb(2) ** -53
        assert arb(gamma(k)) >= k * unit / (1 - k * unit)
        assert gamma(k) <= k * 2.0**-53 * (1 + 1e-6) + 1e-300
    assert gamma(4, torch.float32) == pytest.approx(4 * 2.0**-24)
    with pytest.raises(CrossproofError, match=r"no rounding bound in torch\.float32"):
        gamma(2**24, torch.float32)


def test_upward_is_never_below() -> None:
    values = torch.tensor([0.0, 1e-300, 1.0, 1e300], dtype=F64)
    assert (upward(values) > values).all()
    torch.testing.assert_close(upward(values), values, rtol=1e-13, atol=1e-300)


@EXAMPLES
@given(SEEDS, st.integers(1, 60), st.booleans())
def test_products_stay_within_their_slack(seed: int, length: int, cancelling: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, length, generator=generator, dtype=F64)
    W = torch.randn(length, 5, generator=generator, dtype=F64)
    b = torch.randn(5, generator=generator, dtype=F64)
    if cancelling:  # the largest relative error: everything cancels
        b = -(x @ W)[0]
    slack = product_slack(x, W, b)
    assert within(x @ W + b, product(x, W, b), slack)
    magnitude = x.abs() @ W.abs() + b.abs()
    assert (slack <= 1e-13 * magnitude).all()


@examples(200)
@given(st.sampled_from(list(Activation)), st.floats(-60, 60), st.integers(0, 7))
def test_activations_stay_within_their_slack(activation: Activation, x: float, lane: int) -> None:
    """In vectorised and remainder lanes alike."""
    points = torch.full((lane + 1,), x, dtype=F64)
    slack = activation_slack(activation, points, torch.zeros_like(points))
    assert within(activation(points), [exact(activation, arb(x))] * (lane + 1), slack)
    assert (slack <= 1e-13 * points.abs() + 1e-300).all()


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)), st.booleans(), st.sampled_from([0.1, 1.0, 30.0]))
def test_whole_mlps_stay_within_their_slack(
    seed: int, activation: Activation, gated: bool, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mlp = random_mlp(activation, gated, generator)
    x = scale * torch.randn(1, 5, generator=generator, dtype=F64)
    neurons = exact_neurons(mlp, x)
    truth = [
        sum((n * w for n, w in zip(neurons, balls(column), strict=True)), offset)
        for column, offset in zip(mlp.W_out.T, balls(mlp.b_out), strict=True)
    ]
    slack = mlp_slack(mlp, x)
    assert within(mlp(x), truth, slack)
    assert (slack <= 1e-9 * (1 + scale**2)).all()
    error = preactivation_slack(x, mlp.W_in, mlp.b_in)
    assert within(x @ mlp.W_in + mlp.b_in, product(x, mlp.W_in, mlp.b_in), error)


def contribution(case: Case, token: int) -> list[list[arb]]:
    """p[h][n] of one token from the stored virtual weights, exactly."""
    values = case.activations[token].tolist()
    return [[arb(a) * g for g in balls(row)] for a, row in zip(values, case.view.G, strict=True)]


def kept_and_added(case: Case, token: int) -> tuple[list[arb], list[arb]]:
    """Each neuron of the one-latent and of the additive model, exactly."""
    view, act = case.view, case.mlp.activation
    p, beta = contribution(case, token), balls(view.baseline)
    owner = view.dominance(case.latents).owner[token].tolist()
    latents, kept, added = case.latents.indices.tolist(), [], []
    for n, b in enumerate(beta):
        own = arb(0) if owner[n] < 0 else p[latents[owner[n]]][n]
        kept.append(exact(act, b + own))
        base = exact(act, b)
        added.append(sum((exact(act, b + row[n]) - base for row in p), base))
    return kept, added


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)), st.sampled_from([0.0, 1e-12, 1.0]))
def test_rigorous_gaps_bound_the_real_arithmetic_error(
    seed: int, activation: Activation, error: float
) -> None:
    """Also where the computed error is 0 or pure rounding: real numbers are compared."""
    case = random_case(seed, activation, scale=3.0, error=error)
    path = linear_path(case.view, case.latents, case.x, rigorous=True)
    dominant = dominant_gap(activation, path)
    p = contributions(case.latents, case.view.G)
    additive = additive_gap(activation, path, p)
    centred = centred_gap(activation, path)
    for token in (0, 1, 5):
        true = exact_neurons(case.mlp, case.x[token])
        kept, added = kept_and_added(case, token)
        limits, steps = balls(centred.gap[token]), balls(centred.step[token])
        around = [k + step for k, step in zip(kept, steps, strict=True)]
        assert all(abs(t - o) <= d for t, o, d in zip(true, around, limits, strict=True))
        for bound, other in [(dominant, kept), (additive, added)]:
            limits = balls(bound[token])
            assert all(abs(t - o) <= d for t, o, d in zip(true, other, limits, strict=True))


def test_without_slack_rounding_alone_breaks_a_gap() -> None:
    """The reason for `rigorous`: one latent, x equal to its reconstruction up to rounding."""
    broken = 0
    for seed in range(5):
        case = random_case(seed, Activation.RELU, error=0.0)
        path = linear_path(case.view, case.latents)
        bare = dominant_gap(Activation.RELU, path)[1].tolist()
        true, (kept, _) = exact_neurons(case.mlp, case.x[1]), kept_and_added(case, 1)
        broken += sum(abs(t - k) > arb(b) for t, k, b in zip(true, kept, bare, strict=True))
    assert broken > 0


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)), st.sampled_from([0.0, 1e-12, 1.0]))
def test_rigorous_gated_gaps_bound_the_real_arithmetic_error(
    seed: int, activation: Activation, error: float
) -> None:
    case = random_case(seed, activation, gated=True, error=error)
    view, latents = case.view, case.latents
    paths = [make(view, latents, case.x, rigorous=True) for make in (gate_path, linear_path)]
    gap, owners = gated_gap(activation, *paths), view.dominance(latents).owner
    for token in (0, 1, 5):
        true = exact_neurons(case.mlp, case.x[token])
        for n, (t, d) in enumerate(zip(true, balls(gap[token]), strict=True)):
            entry = int(owners[token, n])
            latent = int(latents.indices[entry])
            a = arb(0) if entry < 0 else arb(case.activations[token, latent].item())
            gate = arb(view.baseline_gate[n].item()) + a * arb(view.G_gate[latent, n].item())
            linear = arb(view.baseline[n].item()) + a * arb(view.G[latent, n].item())
            assert abs(t - exact(activation, gate) * linear) <= d


@EXAMPLES
@given(SEEDS, st.sampled_from([0.1, 10.0, 1000.0]))
def test_the_cross_entropy_bound_is_above_the_real_logarithm(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    mu = scale * torch.randn(4, 6, generator=generator, dtype=F64)
    labels = torch.randint(0, 6, (4,), generator=generator)
    bounds = cross_entropy_bound(mu, labels)
    for row, label, bound in zip(mu, labels.tolist(), balls(bounds), strict=True):
        others = [(-m).exp() for c, m in enumerate(balls(row)) if c != label]
        truth = sum(others, arb(1)).log()
        assert truth <= bound
        assert bound <= truth + arb(1e-12 * (1 + scale))


@EXAMPLES
@given(SEEDS)
def test_sums_over_neurons_are_rounded_up(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    delta = torch.rand(1, 40, generator=generator, dtype=F64)
    readout = torch.randn(40, 3, generator=generator, dtype=F64)
    ours = functional_bound(delta, readout)[0]
    for f in range(3):
        truth = sum((d * abs(o) for d, o in zip(balls(delta), balls(readout[:, f]), strict=True)))
        assert truth <= arb(ours[f].item())
    margins = margin_bound(delta, readout, torch.tensor([1]))[0]
    for f in (0, 2):
        pairs = zip(balls(delta), balls(readout[:, 1]), balls(readout[:, f]), strict=True)
        assert sum((d * abs(y - c) for d, y, c in pairs)) <= arb(margins[f].item())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_spectral_norm_is_above_that_of_a_known_matrix(scale: float) -> None:
    """Householder reflections of a diagonal matrix: the largest singular value is known."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(40, generator=generator, dtype=F64)
    reflect = torch.eye(40, dtype=F64) - 2 * torch.outer(v, v) / v.dot(v)
    W = reflect @ torch.diag(torch.linspace(0.1, scale, 40, dtype=F64)) @ reflect
    norm = spectral_norm(W).item()
    largest = max(0.1, scale)
    assert largest <= norm <= largest * (1 + 1e-12)


def test_rigorous_paths_need_no_latents() -> None:
    case = random_case(0)
    empty = SparseLatents.from_dense(torch.zeros(2, 9, dtype=F64))
    path = linear_path(case.view, empty, case.x[:2], rigorous=True)
    assert path.slack is not None
    assert (path.slack > 0).all()
    assert math.isfinite(path.slack.sum())


@pytest.mark.parametrize("activation", list(Activation))
def test_bounds_of_numbers_whose_products_underflow_are_not_zero(activation: Activation) -> None:
    """What is 1e-170 twice is no product; the bound of it is still above 0."""
    small = torch.full((1, 1), 1e-170, dtype=torch.float64)
    zero = torch.zeros_like(small)
    path = Preactivations(zero[0], small, zero, 2 * small, 3 * small)
    assert (dominant_gap(activation, path) >= path.signed_rest.abs() / 2).all()
    p = small.expand(1, 2, 1)
    assert (additive_bound(activation, zero[0], p) > 0).all() == (
        oscillation(activation, zero, 2 * small) > 0
    ).all()
    assert (gated_gap(activation, path, path) > 0).all()
    assert (product_bound((small, small), (zero, small)) > 0).all()
    assert (product_bound((small, zero), (zero, small)) == 0).all()


def test_norms_of_tiny_numbers_are_bounded() -> None:
    g = torch.Generator().manual_seed(0)
    delta = torch.rand(5, 7, generator=g, dtype=torch.float64)
    W_out = torch.randn(7, 4, generator=g, dtype=torch.float64)
    whole = gram_bound(delta, W_out)
    for left, right in ((1e-170, 1.0), (1e-100, 1e-100), (1e100, 1e100), (1.0, 1e-280)):
        scaled = gram_bound(delta * left, W_out * right) / left / right
        torch.testing.assert_close(scaled, whole, rtol=1e-12, atol=0.0)
    lopsided = torch.tensor([[1.0, 1e-200]], dtype=torch.float64)
    only = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert (gram_bound(lopsided, only) >= 1e-200).all()


def test_lengths_are_those_of_vectors_whose_squares_are_no_numbers() -> None:
    plain = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for power in (2.0**-900, 2.0**-520, 1.0, 2.0**700):
        assert torch.equal(length(plain * power), plain.norm(dim=-1) * power)
    single = torch.full((2, 4), 1e-30)
    torch.testing.assert_close(length(single), torch.full((2,), 2e-30), atol=0.0, rtol=1e-6)
    assert length(torch.zeros(1, 3, dtype=torch.float64)).item() == 0
    assert length(torch.zeros(0, 3)).shape == (0,)


def test_tiny_gaps_bound_what_an_mlp_puts_out() -> None:
    """‖W_out‖₂ ‖δ‖₂ is no lower than the output's length where squares underflow."""
    mlp = random_mlp(Activation.RELU, False, torch.Generator().manual_seed(0))
    gap = torch.full((1, len(mlp.W_out)), 1e-170, dtype=torch.float64)
    out = length(gap @ mlp.W_out)
    bound = MLPBall(mlp).output_bound(gap)
    assert out.item() > 1e-171
    assert out.item() <= bound.item() < 100 * out.item()
