"""What the interaction does and does not depend on (theorem T2.4)."""

from __future__ import annotations

from dataclasses import replace

import torch
from dictionaries import F64, Case, random_case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.interactions import interaction
from crossproof.lm import Activation

SEEDS = st.integers(0, 2**31)
EXAMPLES = settings(max_examples=30, deadline=None)


def measure(case: Case) -> Tensor:
    view, latents = case.view, case.latents
    return interaction(view, latents, view.dominance(latents))


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def assert_same(left: Case, right: Case, factor: float = 1.0) -> None:
    torch.testing.assert_close(measure(left), factor * measure(right), rtol=1e-8, atol=1e-9)
    assert measure(left)[2:].max() > 0.1


def with_mlp(case: Case, **changes: Tensor | None) -> Case:
    return replace(case, mlp=replace(case.mlp, **changes))


@EXAMPLES
@given(SEEDS, st.booleans())
def test_rescaling_a_latent_against_its_atom(seed: int, gated: bool) -> None:
    case = random_case(seed, gated=gated)
    factor = noise(seed, 9).exp()
    changed = replace(
        case, activations=case.activations * factor, atoms=case.atoms / factor[:, None]
    )
    assert_same(changed, case)


@EXAMPLES
@given(SEEDS, st.booleans())
def test_permuting_latents_and_neurons(seed: int, gated: bool) -> None:
    case = random_case(seed, gated=gated)
    order = noise(seed, 9).argsort()
    assert_same(
        replace(case, activations=case.activations[:, order], atoms=case.atoms[order]), case
    )
    turn, mlp = noise(seed, case.mlp.n_neurons).argsort(), case.mlp
    gate = {} if not gated else {"W_gate": mlp.W_gate[:, turn], "b_gate": mlp.b_gate[turn]}
    plain = {"W_in": mlp.W_in[:, turn], "b_in": mlp.b_in[turn], "W_out": mlp.W_out[turn]}
    assert_same(with_mlp(case, **plain, **gate), case)


@EXAMPLES
@given(SEEDS, st.booleans())
def test_any_invertible_map_of_the_input_space(seed: int, gated: bool) -> None:
    case = random_case(seed, gated=gated)
    T = torch.eye(5, dtype=F64) * 3 + noise(seed, 5, 5) / 2
    inverse, mlp = torch.linalg.inv(T), case.mlp
    gate = None if mlp.W_gate is None else inverse @ mlp.W_gate
    changed = with_mlp(case, W_in=inverse @ mlp.W_in, W_gate=gate)
    assert_same(replace(changed, atoms=case.atoms @ T, bias=case.bias @ T), case)


@EXAMPLES
@given(SEEDS, st.booleans(), st.floats(0.1, 10))
def test_rotating_the_output_space_and_scaling_it(seed: int, gated: bool, factor: float) -> None:
    case = random_case(seed, gated=gated)
    Q = torch.linalg.qr(noise(seed, 5, 5))[0]
    assert_same(with_mlp(case, W_out=case.mlp.W_out @ Q), case)
    assert_same(with_mlp(case, W_out=factor * case.mlp.W_out), case, factor)


@EXAMPLES
@given(SEEDS)
def test_rescaling_relu_neurons(seed: int) -> None:
    case = random_case(seed, Activation.RELU)
    factor, mlp = noise(seed, case.mlp.n_neurons).exp(), case.mlp
    changed = with_mlp(
        case, W_in=mlp.W_in * factor, b_in=mlp.b_in * factor, W_out=mlp.W_out / factor[:, None]
    )
    assert_same(changed, case)
    torch.testing.assert_close(changed.mlp(case.x), mlp(case.x))


@EXAMPLES
@given(SEEDS, st.booleans())
def test_splitting_a_neuron_keeps_the_sum_and_changes_the_mean(seed: int, gated: bool) -> None:
    case, share = random_case(seed, gated=gated), 0.3
    mlp = case.mlp

    def twice(weights: Tensor | None) -> Tensor | None:
        return None if weights is None else torch.cat([weights, weights[..., -1:]], dim=-1)

    W_out = torch.cat([mlp.W_out[:-1], share * mlp.W_out[-1:], (1 - share) * mlp.W_out[-1:]])
    gates = {"W_gate": twice(mlp.W_gate), "b_gate": twice(mlp.b_gate)}
    split = with_mlp(case, W_in=twice(mlp.W_in), b_in=twice(mlp.b_in), W_out=W_out, **gates)
    torch.testing.assert_close(split.mlp(case.x), mlp(case.x))
    assert_same(split, case)
    mean, split_mean = measure(case) / mlp.n_neurons, measure(split) / split.mlp.n_neurons
    assert (split_mean[2:] < mean[2:])[mean[2:] > 0].all()


@EXAMPLES
@given(SEEDS)
def test_bias_and_residual_do_not_enter(seed: int) -> None:
    case = random_case(seed)
    changed = with_mlp(case, b_in=noise(seed, case.mlp.n_neurons))
    assert_same(replace(changed, bias=noise(seed + 1, 5), x=noise(seed, 8, 5)), case)


def test_mixing_latents_changes_it_although_the_reconstruction_is_the_same() -> None:
    case = random_case(0)
    A = torch.eye(9, dtype=F64)
    A[3:5, 3:5] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    mixed = replace(case, activations=case.activations @ A.T, atoms=A @ case.atoms)
    torch.testing.assert_close(mixed.x_hat, case.x_hat)
    assert (measure(mixed) - measure(case)).abs().max() > 0.1


def test_a_duplicated_latent_raises_it_by_half_its_contribution() -> None:
    case = random_case(0)
    alone = replace(case, activations=torch.zeros(1, 9, dtype=F64), x=case.x[:1])
    alone.activations[0, 5] = 2.0
    atoms = torch.cat([case.atoms, case.atoms[5:6]])
    split = torch.zeros(1, 10, dtype=F64)
    split[0, [5, 9]] = 1.0
    copies = replace(alone, activations=split, atoms=atoms)
    torch.testing.assert_close(copies.x_hat, alone.x_hat)
    contribution = (2.0 * case.atoms[5] @ case.mlp.W_in).abs() @ case.mlp.output_norms()
    assert measure(alone).item() == 0.0
    torch.testing.assert_close(measure(copies)[0], contribution / 2)


def test_moving_a_constant_part_into_the_bias_changes_it() -> None:
    case = random_case(0)
    shift = torch.zeros(9, dtype=F64)
    shift[4] = 0.5
    always = replace(case, activations=case.activations + shift)
    moved = replace(case, bias=case.bias + shift @ case.atoms)
    torch.testing.assert_close(always.x_hat, moved.x_hat)
    assert (measure(always) - measure(moved)).abs().max() > 0.1
