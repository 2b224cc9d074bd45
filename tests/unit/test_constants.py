"""Constants of the activations: against autograd, dense grids and Arb's ball arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from dictionaries import F64
from flint import arb, arb_series, ctx
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import LIPSCHITZ as KNOWN
from reference import act

from crossproof.lm import Activation
from crossproof.proof.constants import CRITICAL, LIPSCHITZ, derivative, oscillation

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


def derivatives(activation: Activation, x: arb) -> list[arb]:
    """σ, σ', σ'' and σ''' enclosed on the ball x."""
    ctx.prec, ctx.cap = 120, 4
    try:
        series = curve(activation, arb_series([x, 1]))
    except ValueError:  # the ball is so wide that a denominator's enclosure holds zero
        return [arb("inf")] * 4
    coefficients = [series[k] if k < len(series) else arb(0) for k in range(4)]
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


@settings(max_examples=150, deadline=None)
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
