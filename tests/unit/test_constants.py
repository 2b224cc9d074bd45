"""Constants of the activations: against autograd, dense grids and Arb's ball arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from dictionaries import F64
from flint import arb, arb_series, ctx
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import LIPSCHITZ as KNOWN
from reference import act
from theory.constants import MINIMUM, OSCILLATION

from crossproof.lm import Activation
from crossproof.lm.constants import (
    CRITICAL,
    CURVATURE,
    LIPSCHITZ,
    ROUNDING,
    derivative,
    lipschitz,
    oscillation,
    slope_range,
)

CURVED = tuple(CRITICAL)
NEAR = 0.05
"""Half the width around x* where σ' is shown to be concave."""


def curve(activation: Activation, x: arb_series) -> arb_series:
    """σ of a power series with ball coefficients."""
    match activation:
        case Activation.GELU:
            return x * (1 + (x / arb(2).sqrt()).erf()) / 2
        case Activation.GELU_TANH:
            # (1 + tanh u) / 2 is the logistic function of 2u.
            c = arb(44715) / 1_000_000
            return x / (1 + (-2 * (2 / arb.pi()).sqrt() * (x + c * x * x * x)).exp())
        case Activation.SILU:
            return x / (1 + (-x).exp())
        case _:
            return x / (1 + (-(x * arb(1702) / 1000)).exp())


def derivatives(activation: Activation, x: arb, order: int = 3) -> list[arb]:
    """σ and its derivatives up to `order`, enclosed on the ball x."""
    ctx.prec, ctx.cap = 120, order + 1
    try:
        series = curve(activation, arb_series([x, 1]))
    except ValueError:  # the ball is so wide that a denominator's enclosure holds zero
        return [arb("inf")] * (order + 1)
    coefficients = [series[k] if k < len(series) else arb(0) for k in range(order + 1)]
    return [c * math.factorial(k) for k, c in enumerate(coefficients)]


def below_everywhere(f: Callable[[arb], arb], low: float, high: float, limit: arb) -> bool:
    """Whether f < limit is proved on [low, high], by halving intervals."""
    waiting = [(low, high)]
    while waiting:
        a, b = waiting.pop()
        if f(arb((a + b) / 2, (b - a) / 2)) < limit:
            continue
        if b - a < 1e-6:
            return False
        waiting += [(a, (a + b) / 2), ((a + b) / 2, b)]
    return True


@pytest.mark.parametrize("activation", CURVED)
def test_the_lipschitz_constant_is_an_upper_bound_proved_by_arb(activation: Activation) -> None:
    peak, L = CRITICAL[activation], arb(LIPSCHITZ[activation])
    top = derivatives(activation, arb(peak, 1e-9))
    # σ'' changes sign within 1e-9 of x*, and σ' is concave around it: its largest value nearby
    # lies in that ball, where it is at most L, and within 1e-12 of it.
    left, right = (derivatives(activation, arb(peak + s * 1e-9))[2] for s in (-1, 1))
    assert left > 0 > right
    assert below_everywhere(
        lambda x: derivatives(activation, x)[3], peak - NEAR, peak + NEAR, arb(0)
    )
    centre = derivatives(activation, arb(peak))[1]
    drift = top[2].abs_upper() * arb(1e-9)
    assert centre + drift < L
    assert L - centre < arb(1e-12)

    # Everywhere else on [-20, 20] it is smaller; further out σ' tends monotonically to 0 and 1.
    def slope(x: arb) -> arb:
        return abs(derivatives(activation, x)[1])

    assert below_everywhere(slope, -20, peak - NEAR, L)
    assert below_everywhere(slope, peak + NEAR, 20, L)


@pytest.mark.parametrize("activation", CURVED)
def test_the_derivative_is_one_minus_its_mirror_image(activation: Activation) -> None:
    x = torch.linspace(-12, 12, 2001, dtype=F64)
    torch.testing.assert_close(derivative(activation, x) + derivative(activation, -x), x * 0 + 1)


@pytest.mark.parametrize("activation", list(Activation))
def test_constants_are_rounded_up(activation: Activation) -> None:
    known = KNOWN[activation.value]
    assert known <= LIPSCHITZ[activation] + 1e-16
    assert LIPSCHITZ[activation] <= known + 1e-13


@pytest.mark.parametrize("activation", list(Activation))
def test_the_derivative_equals_autograd(activation: Activation) -> None:
    x = torch.linspace(-15.05, 15, 4001, dtype=F64).requires_grad_()
    (expected,) = torch.autograd.grad(act(activation.value, x).sum(), x)
    x = x.detach()
    torch.testing.assert_close(derivative(activation, x), expected, rtol=1e-12, atol=1e-12)
    single = derivative(activation, x.float()).double()
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=2e-6)


@examples(150)
@given(
    st.sampled_from(list(Activation)),
    st.floats(-6, 6),
    st.one_of(st.just(0.0), st.floats(0, 0.1), st.floats(0, 8)),
)
def test_the_oscillation_equals_a_dense_search(
    activation: Activation, low: float, length: float
) -> None:
    high = low + length
    bounds = torch.tensor([low], dtype=F64), torch.tensor([high], dtype=F64)
    ours = oscillation(activation, *bounds).item()
    grid = torch.linspace(low, high, 4001, dtype=F64)
    if activation is Activation.RELU:
        found = float(low < 0 < high)
    elif activation is Activation.IDENTITY:
        found = 0.0
    else:
        slopes = derivative(activation, grid)
        found = (slopes.max() - slopes.min()).item()
    assert ours >= found - 1e-13
    assert ours <= found + 1e-5


@pytest.mark.parametrize("activation", CURVED)
def test_the_whole_line_oscillates_by_twice_l_minus_one(activation: Activation) -> None:
    swing = oscillation(activation, torch.tensor([-9.0]), torch.tensor([9.0])).item()
    assert swing == pytest.approx(2 * LIPSCHITZ[activation] - 1, rel=1e-6)
    assert swing > 1.19


@pytest.mark.parametrize("activation", CURVED)
def test_the_curvature_is_an_upper_bound_proved_by_arb(activation: Activation) -> None:
    M = arb(CURVATURE[activation])
    at_zero = derivatives(activation, arb(0))[2]
    assert at_zero <= M
    assert M - at_zero < arb(1e-14)

    # σ'' is even and σ'''' < 0 around 0, so 0 is its largest value nearby; elsewhere on [-20, 20]
    # |σ''| is smaller, and further out it falls to 0.
    def fourth(x: arb) -> arb:
        return derivatives(activation, x, order=4)[4]

    assert below_everywhere(fourth, -NEAR, NEAR, arb(0))

    def bend(x: arb) -> arb:
        return abs(derivatives(activation, x)[2])

    assert below_everywhere(bend, NEAR, 20, M)
    assert below_everywhere(bend, -20, -NEAR, M)


def lowest_point(activation: Activation) -> float:
    """Where σ' = 0, by bisection between -x* (σ' < 0) and 0 (σ' > 0)."""
    low, high = -CRITICAL[activation], 0.0
    for _ in range(60):
        middle = (low + high) / 2
        rising = derivative(activation, torch.tensor(middle, dtype=F64)).item() > 0
        low, high = (low, middle) if rising else (middle, high)
    return low


@pytest.mark.parametrize("activation", CURVED)
def test_the_minimum_is_a_lower_bound_proved_by_arb(activation: Activation) -> None:
    bottom, least = lowest_point(activation), arb(MINIMUM[activation])
    # σ is convex around its lowest point, which lies within 1e-9 of `bottom`.
    left, right = (derivatives(activation, arb(bottom + s * 1e-9))[1] for s in (-1, 1))
    assert left < 0 < right
    assert below_everywhere(
        lambda x: -derivatives(activation, x)[2], bottom - NEAR, bottom + NEAR, arb(0)
    )
    drift = derivatives(activation, arb(bottom, 1e-9))[1].abs_upper() * arb(1e-9)
    there = derivatives(activation, arb(bottom))[0]
    assert there - drift > least
    assert there - least < arb(1e-14)

    # Elsewhere on [-20, 0] it is larger; further out σ rises to 0, on the right it is positive.
    def fallen(x: arb) -> arb:
        return -derivatives(activation, x)[0]

    assert below_everywhere(fallen, -20, bottom - NEAR, -least)
    assert below_everywhere(fallen, bottom + NEAR, 0, -least)


def test_constants_of_straight_activations() -> None:
    assert OSCILLATION[Activation.RELU] == 1.0
    assert OSCILLATION[Activation.IDENTITY] == 0.0
    assert CURVATURE[Activation.RELU] == math.inf
    assert CURVATURE[Activation.IDENTITY] == 0.0
    assert MINIMUM[Activation.RELU] == 0.0
    assert MINIMUM[Activation.IDENTITY] == -math.inf


@pytest.mark.parametrize("activation", CURVED)
def test_the_oscillation_is_twice_l_minus_one_exactly(activation: Activation) -> None:
    assert arb(OSCILLATION[activation]) == 2 * arb(LIPSCHITZ[activation]) - 1


def enclosed_slopes(activation: Activation, low: float, high: float) -> tuple[arb, arb]:
    """Balls that hold inf σ' and sup σ' on [low, high], by branch and bound."""

    def slope(x: arb) -> arb:
        """σ'(x) around the middle of x: an enclosure whose error is of second order."""
        middle = x.mid()
        return derivatives(activation, middle)[1] + derivatives(activation, x)[2] * (x - middle)

    samples = [slope(arb(low)), slope(arb(high)), slope(arb((low + high) / 2))]
    samples += [
        slope(arb(s * p)) for s in (-1, 1) for p in (CRITICAL[activation],) if low <= s * p <= high
    ]
    least = min(sample.lower() for sample in samples)
    most = max(sample.upper() for sample in samples)
    gap = arb(1e-9)
    assert below_everywhere(slope, low, high, most + gap)
    assert below_everywhere(lambda x: -slope(x), low, high, -(least - gap))
    return least, most


@pytest.mark.parametrize("activation", CURVED)
@pytest.mark.parametrize(
    ("low", "high"), [(-6, -3), (-3, -1), (-2, -0.4), (-0.5, 0.25), (0.3, 1.1), (1, 3), (2.5, 9)]
)
def test_slopes_on_an_interval_enclose_the_truth_by_arb(
    activation: Activation, low: float, high: float
) -> None:
    """Attained values lie inside the range, and nothing on the interval is 1e-9 outside."""
    least, most = enclosed_slopes(activation, low, high)
    bottom, top = (
        t.item()
        for t in slope_range(activation, *(torch.tensor(v, dtype=F64) for v in (low, high)))
    )
    assert arb(bottom) <= least
    assert arb(bottom) > least - arb(1e-9)
    assert arb(top) >= most
    assert arb(top) < most + arb(1e-9)


@examples(200)
@given(st.sampled_from(CURVED), st.floats(-40, 40))
def test_the_rounding_slack_covers_libm(activation: Activation, x: float) -> None:
    """σ' at one point, in double and single precision, against 120-bit ball arithmetic."""
    for dtype in (F64, torch.float32):
        point = torch.tensor([x], dtype=dtype)
        truth = derivatives(activation, arb(point.item()))[1]
        bottom, top = slope_range(activation, point, point)
        assert arb(bottom.item()) <= truth <= arb(top.item())
        error = abs(arb(derivative(activation, point).item()) - truth)
        assert error < arb(ROUNDING / 2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("activation", list(Activation))
def test_slopes_far_out_are_finite_and_saturated(activation: Activation) -> None:
    far = torch.tensor([-math.inf, -1e200, -1e5, 1e5, 1e200, math.inf], dtype=F64)
    left = 1.0 if activation is Activation.IDENTITY else 0.0
    assert derivative(activation, far).tolist() == [left] * 3 + [1.0] * 3


@examples(100)
@given(st.sampled_from(list(Activation)), st.floats(-6, 6), st.floats(0, 6), st.integers(0, 99))
def test_the_local_lipschitz_constant_bounds_every_secant(
    activation: Activation, low: float, length: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = low + length * torch.rand(2, 50, generator=generator, dtype=F64)
    ends = torch.tensor(low, dtype=F64), torch.tensor(low + length, dtype=F64)
    slope = lipschitz(activation, *ends)
    rise = (act(activation.value, points[0]) - act(activation.value, points[1])).abs()
    assert (rise <= slope * (points[0] - points[1]).abs() + 1e-13).all()
    assert slope <= LIPSCHITZ[activation] + 1e-15
    assert oscillation(activation, *ends) <= OSCILLATION[activation] + 1e-15


def test_slopes_of_relu_are_exact() -> None:
    low = torch.tensor([-2.0, -2.0, -1.0, 0.0, 1.0, 0.0])
    high = torch.tensor([-1.0, 0.0, 1.0, 1.0, 2.0, 0.0])
    assert lipschitz(Activation.RELU, low, high).tolist() == [0, 0, 1, 1, 1, 0]
    assert oscillation(Activation.RELU, low, high).tolist() == [0, 0, 1, 0, 0, 0]
