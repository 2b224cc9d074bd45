"""Simplified MLPs: their outputs against loops, their gaps against the truth."""

from __future__ import annotations

import pytest
import torch
from dictionaries import random_case
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import DenseMLP, DenseView
from torch import Tensor

from crossproof.lm import Activation
from crossproof.proof.attribution.simplified import Neurons, Simplified

ACTIVATIONS = st.sampled_from([Activation.RELU, Activation.GELU, Activation.SILU])
CASES = given(
    seed=st.integers(0, 10_000),
    activation=ACTIVATIONS,
    gated=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    m=st.sampled_from([1, 2, 3, None]),
)


def kept_loop(view: DenseView, m: int | None) -> Tensor:
    """Neurons when the m strongest contributions reach each, one neuron at a time."""
    tokens, neurons, latents = view.p.shape
    out = torch.zeros(tokens, neurons, dtype=torch.float64)
    for b in range(tokens):
        for n in range(neurons):
            chosen = view.strength[b, n].argsort(descending=True)[: latents if m is None else m]
            linear = view.beta[n] + view.p[b, n, chosen].sum()
            gate = view.beta_gate[n] + view.q[b, n, chosen].sum() if view.gated else None
            out[b, n] = _act(view, linear) if gate is None else _act(view, gate) * linear
    return out


def _act(view: DenseView, x: Tensor) -> Tensor:
    return Activation(view.mlp.name)(x)


def additive_neurons(view: DenseView) -> Tensor:
    if not view.gated:
        base = _act(view, view.beta)
        return base + (_act(view, view.beta[:, None] + view.p) - base[:, None]).sum(2)
    base = _act(view, view.beta_gate) * view.beta
    moved = _act(view, view.beta_gate[:, None] + view.q) * (view.beta[:, None] + view.p)
    return base + (moved - base[:, None]).sum(2)


@examples(40)
@CASES
def test_outputs_and_gaps(
    seed: int, activation: Activation, gated: bool, scale: float, m: int | None
) -> None:
    case = random_case(seed, activation, gated, scale)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    for x in (case.x, None):
        neurons = Neurons(case.view, case.latents, x, rigorous=True)
        true = case.mlp.neurons(case.x if x is not None else case.x_hat)
        kept, additive = neurons.keep(m), neurons.additive()
        for simple, expected in (
            (kept, kept_loop(dense, m)),
            (additive, additive_neurons(dense)),
        ):
            torch.testing.assert_close(simple.neurons, expected, rtol=1e-9, atol=1e-9)
            output = expected @ case.mlp.W_out + case.mlp.b_out
            torch.testing.assert_close(simple.output, output, rtol=1e-9, atol=1e-9)
            assert bool((simple.gap >= (true - simple.neurons).abs()).all())
        centred = neurons.keep_centred(m)
        assert bool((centred.gap >= (true - centred.neurons).abs()).all())
        assert centred.terms.tolist() == kept.terms.tolist()
        residual = neurons.residual()
        among = case.mlp.neurons(case.x_hat)
        assert bool((residual >= (true - among).abs() - 1e-9).all())


@examples(20)
@CASES
def test_terms_count_what_reaches_the_neurons(
    seed: int, activation: Activation, gated: bool, scale: float, m: int | None
) -> None:
    case = random_case(seed, activation, gated, scale)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    acting = (dense.strength > 0).sum(2)
    expected = (acting if m is None else acting.clamp_max(m)).sum(1)
    assert Neurons(case.view, case.latents).keep(m).terms.tolist() == expected.tolist()


@pytest.mark.parametrize("gated", [False, True])
def test_forgetting_the_rest_or_the_residual_is_noticed(gated: bool) -> None:
    case = random_case(0, Activation.GELU, gated)
    true = case.mlp.neurons(case.x)
    without_residual = Neurons(case.view, case.latents).keep(1)
    without_rest = Neurons(case.view, case.latents, case.x).keep(None)
    dominant: Simplified = Neurons(case.view, case.latents, case.x).keep(1)
    for gap in (without_residual.gap, without_rest.gap):
        assert bool((gap < (true - dominant.neurons).abs()).any())
    assert bool((dominant.gap >= (true - dominant.neurons).abs() - 1e-12).all())
