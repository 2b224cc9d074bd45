"""T2.2 and T2.3: what treating latents as additive costs; for any numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from dictionaries import F64, random_case
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples
from reference import DenseMLP, DenseView, act
from rounding import slack
from theory.additive import (
    additive_bounds,
    additive_output,
    convex_range,
    curves,
    pair_interactions,
    pairwise_minima,
)
from theory.constants import OSCILLATION
from theory.dominant import (
    dominant_ladder,
)
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.interactions import additive_interaction
from crossproof.lm import Activation
from crossproof.lm.constants import CURVATURE, oscillation
from crossproof.proof.bounds import (
    additive_error,
    additive_gap,
    contributions,
    linear_path,
)

EXAMPLES = examples(40)
SEEDS = st.integers(0, 2**31)
ACTIVATIONS = st.sampled_from(list(Activation))
SCALES = st.sampled_from([0.01, 0.1, 1.0, 10.0])


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def below(small: Tensor, large: Tensor, slack: float = 1e-9) -> bool:
    return bool((small <= large * (1 + slack) + slack).all())


def awkward(seed: int, scale: float, latents: int = 5, tokens: int = 12) -> tuple[Tensor, Tensor]:
    """β [7] and p [tokens, latents, 7] with zeros, ties and exact opposites."""
    p = scale * noise(seed, tokens, latents, 7)
    p = p * (noise(seed + 1, tokens, latents, 7) > -0.3)
    if latents > 2:
        p[:, 1, :3] = p[:, 0, :3]
        p[:, 2, 3:5] = -p[:, 0, 3:5]
    p[0] = 0
    return noise(seed + 2, 7), p


def dense_error(name: str, beta: Tensor, p: Tensor) -> Tensor:
    total = act(name, beta + p.sum(1)) - act(name, beta)
    for h in range(p.shape[1]):
        total = total - (act(name, beta + p[:, h]) - act(name, beta))
    return total


@EXAMPLES
@given(ACTIVATIONS, SEEDS, SCALES, st.integers(0, 6))
def test_the_error_equals_its_definition(
    activation: Activation, seed: int, scale: float, latents: int
) -> None:
    beta, p = awkward(seed, scale, latents)
    ours = additive_error(activation, beta, p)
    torch.testing.assert_close(ours, dense_error(activation.value, beta, p), rtol=0, atol=1e-11)


@EXAMPLES
@given(ACTIVATIONS, SEEDS, SCALES, st.integers(0, 6))
def test_every_form_bounds_the_error_and_they_are_ordered(
    activation: Activation, seed: int, scale: float, latents: int
) -> None:
    beta, p = awkward(seed, scale, latents)
    error = dense_error(activation.value, beta, p).abs()
    bounds = additive_bounds(activation, beta, p)
    assert below(error, bounds.sharp, 1e-12)
    for smaller, larger in [
        ("sharp", "ordered"),
        ("sharp", "curved"),
        ("ordered", "rest"),
        ("ordered", "pairs"),
    ]:
        assert below(getattr(bounds, smaller), getattr(bounds, larger)), (smaller, larger)
    rest = p.abs().sum(1) - (p.abs().amax(1) if latents else 0)
    assert below(bounds.rest, OSCILLATION[activation] * rest, 1e-12)


@EXAMPLES
@given(ACTIVATIONS, SEEDS, SCALES)
def test_every_form_equals_a_loop_over_neurons(
    activation: Activation, seed: int, scale: float
) -> None:
    beta, p = awkward(seed, scale, latents=4, tokens=3)
    bounds = additive_bounds(activation, beta, p)
    for token, n in itertools.product(range(3), range(7)):
        row = sorted(p[token, :, n].tolist(), key=abs, reverse=True)
        low = beta[n] + sum(min(q, 0) for q in row)
        high = beta[n] + sum(max(q, 0) for q in row)
        swing = oscillation(activation, low.reshape(1), high.reshape(1)).item()
        before = [abs(sum(row[:k])) for k in range(1, 4)]
        pairs = list(itertools.combinations([abs(q) for q in row], 2))
        curved = sum(a * b for a, b in pairs)
        expected = {
            "ordered": swing * sum(map(min, before, [abs(q) for q in row[1:]])),
            "rest": swing * sum(abs(q) for q in row[1:]),
            "pairs": swing * sum(min(pair) for pair in pairs),
            "curved": CURVATURE[activation] * curved if curved else 0.0,
        }
        for name, value in expected.items():
            assert getattr(bounds, name)[token, n].item() == pytest.approx(value, abs=1e-9), name


@EXAMPLES
@given(ACTIVATIONS, SEEDS, SCALES)
def test_at_most_one_latent_is_free_exactly(
    activation: Activation, seed: int, scale: float
) -> None:
    beta, p = awkward(seed, scale)
    p = p * (torch.arange(5)[:, None] == torch.arange(7) % 5)
    assert (additive_error(activation, beta, p) == 0).all()
    bounds = additive_bounds(activation, beta, p)
    for form in (bounds.sharp, bounds.ordered, bounds.rest, bounds.pairs, bounds.curved):
        assert (form == 0).all()


@EXAMPLES
@given(SEEDS, SCALES, st.sampled_from([-1, 1]))
def test_relu_on_one_side_of_its_kink_is_free_exactly(seed: int, scale: float, side: int) -> None:
    beta, p = awkward(seed, scale)
    bounds = additive_bounds(Activation.RELU, beta * 0 + side * 1e4, p)
    assert (bounds.sharp == 0).all()
    assert (bounds.pairs == 0).all()
    straight = additive_bounds(Activation.IDENTITY, beta, p)
    assert (straight.rest == 0).all()
    assert (straight.curved == 0).all()


@EXAMPLES
@given(SEEDS, ACTIVATIONS, st.sampled_from([0.1, 1.0, 10.0]), st.sampled_from([0.0, 1.0, 1e4]))
@example(seed=739, activation=Activation.GELU, scale=10.0, error=1e4)
def test_gaps_bound_the_distance_from_the_additive_model(
    seed: int, activation: Activation, scale: float, error: float
) -> None:
    case = random_case(seed, activation, scale=scale, error=error)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    base = act(activation.value, dense.beta)
    curved = act(activation.value, dense.beta[:, None] + dense.p) - base[:, None]
    distance = (case.mlp.neurons(case.x) - base - curved.sum(2)).abs()
    size = case.mlp.neurons(case.x).abs() + base.abs() + curved.abs().sum(2)
    for rigorous in (False, True):
        path = linear_path(case.view, case.latents, case.x, rigorous=rigorous)
        sharp = additive_gap(activation, path, contributions(case.latents, case.view.G))
        assert (distance <= sharp + slack(32, size)).all()
    output = additive_output(case.view, case.latents)
    torch.testing.assert_close(output, dense.additive_output(), rtol=1e-9, atol=1e-9)


@EXAMPLES
@given(SEEDS, ACTIVATIONS)
def test_the_rest_form_is_the_measure_j(seed: int, activation: Activation) -> None:
    case = random_case(seed, activation)
    view, latents = case.view, case.latents
    bounds = additive_bounds(activation, view.baseline, contributions(latents, view.G))
    ours = additive_interaction(view, latents, view.dominance(latents))
    torch.testing.assert_close(bounds.rest @ view.output_norms, ours, rtol=1e-8, atol=1e-9)
    assert below(ours, OSCILLATION[activation] * dominant_ladder(view, latents).interaction)


@EXAMPLES
@given(SEEDS, ACTIVATIONS, SCALES)
def test_pair_interactions_are_symmetric_and_sum_to_a_bound(
    seed: int, activation: Activation, scale: float
) -> None:
    beta, p = awkward(seed, scale)
    weights = noise(seed + 9, 7).abs()
    Q = pair_interactions(activation, beta, p, weights)
    assert torch.equal(Q, Q.transpose(1, 2))
    assert (Q.diagonal(dim1=1, dim2=2) == 0).all()
    total = Q.sum((1, 2)) / 2
    error = dense_error(activation.value, beta, p).abs() @ weights
    assert below(error, total, 1e-12)
    expected = additive_bounds(activation, beta, p).pairs @ weights
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-12)


@EXAMPLES
@given(SEEDS)
def test_pairwise_minima_equal_a_loop(seed: int) -> None:
    _, p = awkward(seed, 1.0, latents=3, tokens=2)
    weights = noise(seed, 2, 7).abs()
    ours = pairwise_minima(p, weights)
    for h, k in itertools.permutations(range(3), 2):
        expected = (torch.minimum(p[:, h].abs(), p[:, k].abs()) * weights).sum(1)
        torch.testing.assert_close(ours[:, h, k], expected)


@EXAMPLES
@given(SEEDS, ACTIVATIONS)
def test_the_additive_model_is_a_sum_of_curves(seed: int, activation: Activation) -> None:
    case = random_case(seed, activation)
    values = torch.tensor([0.0, 0.5, 2.0], dtype=F64)
    table = curves(case.view, torch.arange(9), values)
    assert (table[:, 0] == 0).all()  # a latent that is off adds nothing
    chosen = torch.randint(0, 3, (4, 9), generator=torch.Generator().manual_seed(seed))
    dense = DenseView(DenseMLP(case.mlp), values[chosen], case.decoder, case.bias)
    base = act(activation.value, dense.beta) @ case.mlp.W_out + case.mlp.b_out
    summed = base + table[torch.arange(9), chosen].sum(1)
    torch.testing.assert_close(summed, dense.additive_output(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("latent", [-1, 9])
def test_a_curve_needs_a_known_latent(latent: int) -> None:
    with pytest.raises(CrossproofError, match="the dictionary has latents 0 to 8"):
        curves(random_case(0).view, torch.tensor([0, latent]), torch.ones(1, dtype=F64))


def box(seed: int, scale: float, latents: int) -> tuple[Tensor, Tensor, Tensor]:
    beta, p = awkward(seed, scale, latents)
    shrink = torch.rand(latents, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return beta, p * shrink, p


@EXAMPLES
@given(SEEDS, SCALES, st.integers(1, 5), st.booleans())
def test_the_convex_range_holds_in_the_whole_box(
    seed: int, scale: float, latents: int, one_sign: bool
) -> None:
    """And is exact for two latents (T2.3), or contributions of one sign: corners attain it."""
    beta, low, high = box(seed, scale, latents)
    if one_sign:
        low, high = low.abs(), high.abs()
    bottom, top = convex_range(Activation.RELU, beta, low, high)
    for point in range(20):
        part = torch.rand(latents, 1, generator=torch.Generator().manual_seed(point), dtype=F64)
        error = dense_error("relu", beta, low + (high - low) * part)
        assert below(bottom, error, 1e-12)
        assert below(error, top, 1e-12)
    if one_sign or latents <= 2:
        ends = torch.stack([dense_error("relu", beta, low), dense_error("relu", beta, high)])
        torch.testing.assert_close(bottom, ends.amin(0), rtol=0, atol=1e-12 * (1 + scale))
        torch.testing.assert_close(top, ends.amax(0), rtol=0, atol=1e-12 * (1 + scale))


def test_the_sign_of_the_error_follows_the_signs_of_two_contributions() -> None:
    beta, p = torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([[[2.0, 2.0, -2.0], [2.0, -2.0, -2.0]]])
    error = additive_error(Activation.RELU, beta, p)
    assert error.tolist() == [[1.0, -1.0, 1.0]]


@EXAMPLES
@given(SEEDS, SCALES, st.integers(1, 5))
def test_opposite_signs_never_add_up(seed: int, scale: float, latents: int) -> None:
    beta, p = awkward(seed, scale, latents)
    up, down = p.clamp_min(0), p.clamp_max(0)
    same = dense_error("relu", beta, up) + dense_error("relu", beta, down)
    across = dense_error("relu", beta, torch.stack([up.sum(1), down.sum(1)], 1))
    torch.testing.assert_close(
        dense_error("relu", beta, p), same + across, rtol=0, atol=1e-12 * (1 + scale)
    )
    assert (same >= -1e-12 * (1 + scale)).all()
    assert (across <= 1e-12 * (1 + scale)).all()


def test_a_convex_range_needs_a_convex_function_and_a_real_box() -> None:
    beta, low, high = box(0, 1.0, 3)
    with pytest.raises(CrossproofError, match="gelu is not convex"):
        convex_range(Activation.GELU, beta, low, high)
    for bad in (-low, 2 * high):
        with pytest.raises(CrossproofError, match="must keep every sign and not shrink"):
            convex_range(Activation.RELU, beta, bad, high)


def test_an_infinite_curvature_makes_no_nan() -> None:
    beta, p = awkward(0, 1.0)
    curved = additive_bounds(Activation.RELU, beta, p).curved
    assert not curved.isnan().any()
    assert curved.isinf().any()
    assert (curved[0] == 0).all()


def attack(activation: Activation, bound: str, starts: Tensor, steps: int = 300) -> float:
    """The largest |E| / bound that gradient ascent finds; each start is a neuron of its own."""
    points = starts.T.clone().requires_grad_()
    adam = torch.optim.Adam([points], lr=0.03)
    best = 0.0
    for _ in range(steps):
        beta, p = points[0], points[1:].abs()[None] + 1e-3
        with torch.no_grad():
            limit = getattr(additive_bounds(activation, beta, p), bound)
        error = additive_error(activation, beta, p).abs()
        whole = OSCILLATION[activation] * p.amin(1) if bound == "pairs" else limit
        best = max(best, (error.detach() / limit.clamp_min(1e-9)).max().item())
        adam.zero_grad()
        (-(error / whole.detach().clamp_min(1e-9)).sum()).backward()
        adam.step()
    return best


OFTEN_AND_SLOWLY = [
    pytest.param(a, marks=() if a in (Activation.RELU, Activation.SILU) else pytest.mark.slow)
    for a in Activation
    if a is not Activation.IDENTITY
]
"""One activation with a kink and one without are attacked every time, the others in the slow
suite: their constants differ, their formulas do not."""


@pytest.mark.parametrize("bound", ["sharp", "ordered", "rest", "pairs"])
@pytest.mark.parametrize("activation", OFTEN_AND_SLOWLY)
def test_an_attack_reaches_the_swing_and_never_passes_it(
    activation: Activation, bound: str
) -> None:
    """A large contribution carries the neuron from -x* to x*, a small one measures σ' at both."""
    axes = torch.linspace(-4, 4, 17), torch.tensor([2.0, 5.0]), torch.tensor([0.01])
    assert 0.99 <= attack(activation, bound, torch.cartesian_prod(*axes).to(F64)) <= 1 + 1e-9


@pytest.mark.parametrize("bound", ["sharp", "curved"])
@pytest.mark.parametrize("activation", [a for a in Activation if 0 < CURVATURE[a] < math.inf])
def test_an_attack_reaches_the_curvature_and_never_passes_it(
    activation: Activation, bound: str
) -> None:
    axes = torch.linspace(-1, 1, 9), torch.tensor([0.02]), torch.tensor([0.02])
    starts = torch.cartesian_prod(*axes).to(F64)
    assert 0.99 <= attack(activation, bound, starts, steps=100) <= 1 + 1e-9
