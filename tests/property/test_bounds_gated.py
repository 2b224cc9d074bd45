"""T3: gated MLPs, for any numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from dictionaries import F64, Case, random_case
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import DenseMLP, DenseView, act
from theory.blocks import (
    as_blocks,
)
from theory.gated import (
    gated_additive_error,
    gated_pair_interactions,
)
from torch import Tensor

from crossproof.interactions import interaction, residual
from crossproof.lm import Activation
from crossproof.lm.constants import LIPSCHITZ
from crossproof.proof.bounds import (
    Preactivations,
    additive_error,
    contributions,
    gate_path,
    gated_additive_bound,
    gated_gap,
    gated_interaction,
    gated_residual,
    linear_path,
)

EXAMPLES = examples(40)
SEEDS = st.integers(0, 2**31)
ACTIVATIONS = st.sampled_from(list(Activation))


def gated_cases() -> st.SearchStrategy[Case]:
    return st.builds(
        random_case,
        seed=SEEDS,
        activation=ACTIVATIONS,
        gated=st.just(True),
        scale=st.sampled_from([0.1, 1.0, 10.0]),
        error=st.sampled_from([0.0, 0.1, 1.0, 1e4]),
    )


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def below(small: Tensor, large: Tensor, slack: float = 1e-9) -> bool:
    return bool((small <= large * (1 + slack) + slack).all())


def paths(case: Case, rigorous: bool = False) -> tuple[Preactivations, Preactivations]:
    arguments = case.view, case.latents, case.x, None, rigorous
    return gate_path(*arguments), linear_path(*arguments)


def product(case: Case, gate: Tensor, linear: Tensor) -> Tensor:
    return act(case.mlp.activation.value, gate) * linear


@EXAMPLES
@given(gated_cases(), st.booleans(), st.booleans())
def test_interaction_and_residual_bound_what_they_say(
    case: Case, signed: bool, local: bool
) -> None:
    activation, (gate, linear) = case.mlp.activation, paths(case)
    kept = product(case, gate.kept, linear.kept)
    everything = product(case, gate.reconstructed, linear.reconstructed)
    moved = gated_interaction(activation, gate, linear, signed, local)
    assert below((everything - kept).abs(), moved.total)
    left = gated_residual(activation, gate, linear, local)
    true = product(case, gate.true, linear.true)
    assert below((true - everything).abs(), left.total)
    assert below(moved.total, gated_interaction(activation, gate, linear).total)
    assert below(left.total, gated_residual(activation, gate, linear).total)


@EXAMPLES
@given(gated_cases())
def test_the_global_unsigned_form_is_the_measure_of_interactions(case: Case) -> None:
    activation, (gate, linear) = case.mlp.activation, paths(case)
    norms, view = case.view.output_norms, case.view
    ours = gated_interaction(activation, gate, linear).total @ norms
    expected = interaction(view, case.latents, view.dominance(case.latents))
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)
    ours = gated_residual(activation, gate, linear).total @ norms
    torch.testing.assert_close(ours, residual(view, case.x, case.x_hat), rtol=1e-6, atol=1e-8)


@EXAMPLES
@given(gated_cases(), st.booleans())
def test_the_gap_bounds_the_error_and_drops_the_cross_term(case: Case, rigorous: bool) -> None:
    activation, (gate, linear) = case.mlp.activation, paths(case, rigorous)
    distance = product(case, gate.true, linear.true) - product(case, gate.kept, linear.kept)
    gap = gated_gap(activation, gate, linear)
    assert below(distance.abs(), gap)
    moved = gated_interaction(activation, gate, linear, signed=True, local=True).total
    assert below(gap, moved + gated_residual(activation, gate, linear, local=True).total)


@EXAMPLES
@given(gated_cases(), SEEDS)
def test_any_owner_is_sound(case: Case, seed: int) -> None:
    view, latents = case.view, case.latents
    rows = latents.offsets.diff()[:, None]
    random = (noise(seed, latents.n_tokens, 12).abs() * 1e6).long() % rows.clamp_min(1)
    owner = torch.where(rows > 0, latents.offsets[:-1, None] + random, -1)
    dominance = view.dominance_of(latents, owner)
    gate = gate_path(view, latents, case.x, dominance)
    linear = linear_path(view, latents, case.x, dominance)
    kept = product(case, gate.kept, linear.kept)
    moved = product(case, gate.reconstructed, linear.reconstructed) - kept
    assert below(moved.abs(), gated_interaction(case.mlp.activation, gate, linear).total)


@EXAMPLES
@given(gated_cases())
def test_zero_set(case: Case) -> None:
    """Nothing is charged where one latent acts on a neuron through either path."""
    gate, linear = paths(case)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    alone = (dense.strength != 0).sum(2) <= 1
    assert alone.any()
    charge = gated_interaction(case.mlp.activation, gate, linear)
    for part in (charge.gate, charge.linear, charge.both):
        assert (part[alone] == 0).all()


def test_one_latent_on_the_gate_and_another_on_the_value_interact() -> None:
    """p^γ_i p^υ_j is a genuine interaction, although each path has a single latent."""
    zero, one = torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    base = torch.zeros(1, dtype=F64)
    gate = Preactivations(base, one, zero, one, one)  # the owner acts on the gate
    linear = Preactivations(base, zero, zero, one, one)  # the other on the linear path
    charge = gated_interaction(Activation.RELU, gate, linear)
    assert charge.total.item() == 1.0  # σ(1)·1 - σ(1)·0
    assert gated_gap(Activation.RELU, gate, linear).item() == pytest.approx(1.0, abs=1e-12)


def awkward(seed: int, scale: float, latents: int) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    p = scale * noise(seed, 2, 10, latents, 6)
    p = p * (noise(seed + 1, 2, 10, latents, 6) > -0.3)
    if latents > 1:
        p[:, :, 1, :2] = p[:, :, 0, :2]
    return (noise(seed + 2, 6), noise(seed + 3, 6)), p[0], p[1]


SCALES = st.sampled_from([0.1, 1.0, 10.0])


@EXAMPLES
@given(ACTIVATIONS, SEEDS, SCALES, st.integers(0, 5))
def test_the_additive_bound_and_its_pairs_bound_the_additive_error(
    activation: Activation, seed: int, scale: float, latents: int
) -> None:
    baselines, p_gate, p_linear = awkward(seed, scale, latents)
    name, (base_gate, base_linear) = activation.value, baselines

    def neuron(gate: Tensor, linear: Tensor) -> Tensor:
        return act(name, base_gate + gate) * (base_linear + linear)

    zero = torch.zeros_like(base_gate)
    error = neuron(p_gate.sum(1), p_linear.sum(1)) - neuron(zero, zero)
    for h in range(latents):
        error = error - (neuron(p_gate[:, h], p_linear[:, h]) - neuron(zero, zero))
    ours = gated_additive_error(activation, baselines, p_gate, p_linear)
    torch.testing.assert_close(ours, error, rtol=0, atol=1e-9)
    bound = gated_additive_bound(activation, baselines, p_gate, p_linear)
    assert below(error.abs(), bound)
    weights = noise(seed + 4, 6).abs()
    Q = gated_pair_interactions(activation, baselines, p_gate, p_linear, weights)
    assert torch.equal(Q, Q.transpose(1, 2))
    assert below(error.abs() @ weights, Q.sum((1, 2)) / 2)
    assert below(bound @ weights, Q.sum((1, 2)) / 2)


@EXAMPLES
@given(SEEDS, SCALES)
def test_a_bilinear_neuron_is_exact(seed: int, scale: float) -> None:
    """σ = identity: E = sum over pairs of p^γ_h p^υ_k + p^γ_k p^υ_h."""
    baselines, p_gate, p_linear = awkward(seed, scale, 3)
    expected = sum(p_gate[:, h] * p_linear[:, k] for h, k in itertools.permutations(range(3), 2))
    ours = gated_additive_error(Activation.IDENTITY, baselines, p_gate, p_linear)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@EXAMPLES
@given(ACTIVATIONS, SEEDS, SCALES)
def test_the_identity_behind_the_additive_bound(
    activation: Activation, seed: int, scale: float
) -> None:
    (base_gate, base_linear), p_gate, p_linear = awkward(seed, scale, 4)
    full, alone = base_gate + p_gate.sum(1, keepdim=True), base_gate + p_gate
    crossed = p_linear * (act(activation.value, full) - act(activation.value, alone))
    expected = base_linear * additive_error(activation, base_gate, p_gate) + crossed.sum(1)
    ours = gated_additive_error(activation, (base_gate, base_linear), p_gate, p_linear)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@EXAMPLES
@given(SEEDS)
def test_blocks_work_on_both_paths(seed: int) -> None:
    case = random_case(seed, Activation.SILU, gated=True)
    partition = torch.arange(9) % 3
    blocks = as_blocks(case.view, case.latents, partition)
    gate = gate_path(blocks.view, blocks.latents, case.x)
    linear = linear_path(blocks.view, blocks.latents, case.x)
    distance = product(case, gate.true, linear.true) - product(case, gate.kept, linear.kept)
    assert below(distance.abs(), gated_gap(Activation.SILU, gate, linear))
    assert blocks.view.G_gate is not None
    p = contributions(blocks.latents, blocks.view.G_gate)
    assert p.shape[1] <= 3
    torch.testing.assert_close(case.view.baseline_gate + p.sum(1), gate.reconstructed)


CURVED = [a for a in Activation if a not in (Activation.RELU, Activation.IDENTITY)]


@pytest.mark.parametrize("part", ["gate", "residual"])
@pytest.mark.parametrize("activation", CURVED)
def test_an_attack_on_the_gate_reaches_the_lipschitz_constant(
    activation: Activation, part: str
) -> None:
    """The gate moves by g around x*, the linear path stays: the ratio is σ'(x*) / L."""
    start = torch.cartesian_prod(torch.linspace(-3, 3, 13), torch.tensor([0.1, 1.0])).to(F64)
    points = start.T.clone().requires_grad_()
    adam = torch.optim.Adam([points], lr=0.05)
    for _ in range(200):
        at, shift = points[0], points[1].abs() + 1e-3
        ratio = (activation(at + shift) - activation(at)).abs() / shift
        adam.zero_grad()
        (-ratio.sum()).backward()
        adam.step()
    with torch.no_grad():
        at, shift = points[0][None], points[1].abs()[None] + 1e-3
        zero = torch.zeros_like(at)
        base, two = torch.zeros(at.shape[1], dtype=F64), torch.full_like(at, 2.0)
        if part == "gate":  # the owner brings `at`, another latent `shift`
            low, high = at.clamp_max(0), at.clamp_min(0) + shift
            gate = Preactivations(base, at, low, high, at + shift)
            bound = gated_interaction(activation, gate, Preactivations(base, two, zero, two, two))
        else:  # the owner is alone, the model is `shift` further
            gate = Preactivations(base, at, at.clamp_max(0), at.clamp_min(0), at + shift)
            bound = gated_residual(activation, gate, Preactivations(base, two, zero, two, two))
        reached = (activation(at + shift) - activation(at)).abs() * 2
        best = (reached / bound.total).max().item()
    assert 0.99 <= best <= 1 + 1e-9
    assert best * LIPSCHITZ[activation] > 1.05  # L = 1 would be refuted
