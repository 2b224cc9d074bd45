"""The gated pair form Q against brute force that knows no constant of the package.

Activations are written out in `reference.act`; suprema of σ' are taken over difference quotients
on a fine grid; non-additivity is computed by evaluating the neuron at every subset of latents.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from dictionaries import F64, random_case
from differences import dense_sums
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import act
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.interactions import (
    MLPDictionary,
    gated_pair_form,
    measure_interactions,
    token_pairs,
)
from crossproof.lm import Activation

ACTIVATIONS = st.sampled_from([Activation.RELU, Activation.GELU, Activation.SILU])
SEEDS = st.integers(0, 2**31)
EXAMPLES = settings(max_examples=25, deadline=None)
GRID = 2001
ROUNDING = 64 * torch.finfo(F64).eps
"""Of the sums and activations of one comparison, relative to the largest term in it."""


class Neurons:
    """Gated neurons with K latents: baselines [N], contributions [K, N], from a seed."""

    def __init__(self, seed: int, name: str, latents: int = 4, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=F64)

        self.name = name
        self.base_gate, self.base = draw(6), draw(6) * 3
        self.gate, self.linear = scale * draw(latents, 6), scale * draw(latents, 6)
        self.weights = draw(6).abs()

    def value(self, chosen: tuple[int, ...]) -> Tensor:
        """The neurons with only the chosen latents."""
        rows = list(chosen)
        gate = self.base_gate + self.gate[rows].sum(0)
        return act(self.name, gate) * (self.base + self.linear[rows].sum(0))

    def pair_form(self) -> Tensor:
        activation = Activation(self.name)
        paths = self.gate[None], self.linear[None]
        swing, crossed = gated_pair_form(
            activation, self.base_gate, self.base, *paths, self.weights
        )
        smaller = torch.minimum(self.gate.abs()[:, None], self.gate.abs())
        return (smaller @ swing[0] + crossed[0]).fill_diagonal_(0)

    def size(self) -> float:
        """The largest number that a comparison adds up."""
        whole = self.base.abs() + self.linear.abs().sum(0)
        return float(((1 + self.base_gate.abs() + self.gate.abs().sum(0)) * whole).max()) * 10


def excess(neurons: Neurons) -> float:
    """How far the true non-additivity exceeds Q, of any pair and of all together; ≤ 0 if sound."""
    form, latents = neurons.pair_form(), range(len(neurons.gate))
    nothing = neurons.value(())
    gaps = []
    for h, k in itertools.combinations(latents, 2):
        delta = neurons.value((h, k)) - neurons.value((h,)) - neurons.value((k,)) + nothing
        gaps.append(float((delta.abs() * neurons.weights).sum() - form[h, k]))
    alone = torch.stack([neurons.value((h,)) - nothing for h in latents]).sum(0)
    error = neurons.value(tuple(latents)) - nothing - alone
    gaps.append(float((error.abs() * neurons.weights).sum() - form.triu(1).sum()))
    return max(gaps)


@EXAMPLES
@given(SEEDS, ACTIVATIONS, st.sampled_from([0.01, 1.0, 30.0]))
def test_it_bounds_second_differences_and_the_additive_error(
    seed: int, activation: Activation, scale: float
) -> None:
    neurons = Neurons(seed, activation.value, scale=scale)
    assert neurons.pair_form().isfinite().all()
    assert excess(neurons) <= ROUNDING * neurons.size()


@pytest.mark.parametrize(
    "name", ["relu", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gelu", "silu"))]
)
def test_an_adversary_does_not_get_above_it_but_close(name: str) -> None:
    """Hill climbing on the share of one neuron's Q that one pair's second difference reaches."""
    generator = torch.Generator().manual_seed(1)
    neurons = Neurons(0, name, latents=2)
    best, parts = 0.0, ("base_gate", "base", "gate", "linear")
    for step in range(1500):
        before = {part: getattr(neurons, part) for part in parts}
        for part, value in before.items():
            noise = torch.randn(value.shape, generator=generator, dtype=F64)
            setattr(neurons, part, value + noise * (0.5 if step < 800 else 0.05))
        delta = neurons.value((0, 1)) - neurons.value((0,)) - neurons.value((1,))
        delta = (delta + neurons.value(())).abs() @ neurons.weights
        share = float(delta / neurons.pair_form()[0, 1])
        assert share <= 1 + ROUNDING
        if share < best:
            for part, value in before.items():
                setattr(neurons, part, value)
        best = max(best, share)
    assert best > 0.5


@EXAMPLES
@given(SEEDS, ACTIVATIONS)
def test_its_constants_are_the_extremes_of_difference_quotients(
    seed: int, activation: Activation
) -> None:
    """Between the form with slopes seen on a grid, which are too small, and a little above it."""
    neurons = Neurons(seed, activation.value, latents=3)
    low = neurons.base_gate + neurons.gate.clamp_max(0).sum(0)
    high = neurons.base_gate + neurons.gate.clamp_min(0).sum(0)
    steps = torch.linspace(0, 1, GRID, dtype=F64)[:, None]
    grid = low + steps * (high - low)
    slopes = act(neurons.name, grid).diff(dim=0) / grid.diff(dim=0)
    swing, steepest = slopes.amax(0) - slopes.amin(0), slopes.abs().amax(0)
    form = neurons.pair_form()
    for h, k in itertools.permutations(range(3), 2):
        least = torch.minimum(neurons.gate[h].abs(), neurons.gate[k].abs())
        crossed = neurons.gate[h].abs() * neurons.linear[k].abs()
        crossed = crossed + neurons.gate[k].abs() * neurons.linear[h].abs()
        seen = float(neurons.weights @ (neurons.base.abs() * swing * least + steepest * crossed))
        # A quotient is σ' somewhere within half a grid step; |σ''| < 2 for all but ReLU, whose
        # slopes are 0, 1 and, in one cell, between.
        near = 2 * float(((high - low) / GRID).max())
        missing = near * float(neurons.weights @ (2 * neurons.base.abs() * least + crossed))
        assert seen - 1e-9 * (1 + seen) <= float(form[h, k]) <= seen + missing + 1e-9 * (1 + seen)


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_what_is_measured_bounds_the_pair_alone_at_every_token(name: str) -> None:
    case = random_case(5, Activation(name), gated=True)
    found = measure_interactions(case.latents, {0: case.view})
    form = found.pair_sums("Q", normalise="sum")
    _, neurons, _ = dense_sums(case, found.pairs, "alone")
    assert form.isfinite().all()
    assert (neurons <= form + ROUNDING * 100 * (1 + form)).all()  # values up to 100 are added up
    assert (neurons > 0).any()


def test_sums_do_not_depend_on_how_many_tokens_are_taken_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Token 0 has no active latent: alone, its padded arrays are empty."""
    case = random_case(5, Activation.SILU, gated=True)
    together = token_pairs(case.latents, {0: case.view})
    monkeypatch.setattr("crossproof.interactions.gated_pairs._NUMBERS", 1)
    alone = token_pairs(case.latents, {0: case.view})
    torch.testing.assert_close(alone.sums, together.sums, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone.diagonal, together.diagonal, rtol=1e-12, atol=1e-12)


def test_a_relu_gate_that_stays_on_or_off_is_charged_for_the_product_alone() -> None:
    """σ' does not vary on the gate's hull: of Q only the terms across the paths are left."""
    case = random_case(3, Activation.RELU, gated=True)
    view = case.view
    for shift, slope in ((1e3, 1.0), (-1e3, 0.0)):
        moved = MLPDictionary(view.mlp, view.G, view.baseline, view.G_gate, view.baseline + shift)
        form = measure_interactions(SparseLatents.from_dense(case.activations), {0: moved})
        p = case.activations[:, :, None] * view.G.abs()
        g = case.activations[:, :, None] * view.G_gate.abs()
        crossed = torch.einsum("bhn,bkn,n->hk", g, p, view.output_norms)
        expected = slope * (crossed + crossed.T).fill_diagonal_(0)
        torch.testing.assert_close(
            form.matrix("Q", normalise="sum"), expected, rtol=1e-10, atol=1e-9
        )
