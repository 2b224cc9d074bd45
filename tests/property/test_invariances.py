"""What the interaction does and does not depend on (theorems T2.1 to T2.5).

docs/what-the-measure-measures.md names every test of this file.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from dictionaries import F64, Case, random_case
from differences import dense_delta
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import DenseMLP, DenseView
from rounding import slack
from torch import Tensor

from crossproof.interactions import (
    additive_interaction,
    interaction,
    neuron_game,
    residual,
    second_difference_scores,
    shapley_taylor,
)
from crossproof.lm import Activation, MLPWeights
from crossproof.lm.constants import LIPSCHITZ

SEEDS = st.integers(0, 2**31)
ACTIVATIONS = st.sampled_from(list(Activation))
EXAMPLES = examples(30)
FEW = examples(12)


def measure(case: Case) -> Tensor:
    view, latents = case.view, case.latents
    return interaction(view, latents, view.dominance(latents))


def additive(case: Case) -> Tensor:
    view, latents = case.view, case.latents
    return additive_interaction(view, latents, view.dominance(latents))


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def assert_same(left: Case, right: Case, factor: float = 1.0) -> None:
    """I of both, and with it J and the true second differences in both their forms."""
    close = {"rtol": 1e-8, "atol": 1e-9}
    torch.testing.assert_close(measure(left), factor * measure(right), **close)
    assert measure(left)[2:].max() > 0.1
    if not left.mlp.gated:
        torch.testing.assert_close(additive(left), factor * additive(right), **close)
    for form in ("neurons", "output"):
        ours, theirs = (
            second_difference_scores(c.view, c.latents, form=form) for c in (left, right)
        )
        torch.testing.assert_close(ours, factor * theirs, **close)


def with_mlp(case: Case, **changes: Tensor | None) -> Case:
    return replace(case, mlp=replace(case.mlp, **changes))


def with_code(case: Case, activations: Tensor, decoder: Tensor) -> Case:
    changed = replace(case, activations=activations, decoder=decoder)
    torch.testing.assert_close(changed.x_hat, case.x_hat)
    return changed


# Invariances.


@EXAMPLES
@given(SEEDS, st.booleans())
def test_rescaling_a_latent_against_its_atom(seed: int, gated: bool) -> None:
    case = random_case(seed, gated=gated)
    factor = noise(seed, 9).exp()
    assert_same(with_code(case, case.activations * factor, case.decoder / factor[:, None]), case)


@EXAMPLES
@given(SEEDS, st.booleans())
def test_permuting_latents_and_neurons(seed: int, gated: bool) -> None:
    case = random_case(seed, gated=gated)
    order = noise(seed, 9).argsort()
    assert_same(with_code(case, case.activations[:, order], case.decoder[order]), case)
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
    assert_same(replace(changed, decoder=case.decoder @ T, bias=case.bias @ T), case)


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
@given(SEEDS, st.booleans(), st.floats(0.01, 0.99))
def test_splitting_a_neuron_keeps_the_sum_and_changes_the_mean(
    seed: int, gated: bool, share: float
) -> None:
    case = random_case(seed, gated=gated)
    mlp = case.mlp

    def twice(weights: Tensor | None) -> Tensor | None:
        return None if weights is None else torch.cat([weights, weights[..., -1:]], dim=-1)

    W_out = torch.cat([mlp.W_out[:-1], share * mlp.W_out[-1:], (1 - share) * mlp.W_out[-1:]])
    gates = {"W_gate": twice(mlp.W_gate), "b_gate": twice(mlp.b_gate)}
    split = with_mlp(case, W_in=twice(mlp.W_in), b_in=twice(mlp.b_in), W_out=W_out, **gates)
    torch.testing.assert_close(split.mlp(case.x), mlp(case.x))
    assert_same(split, case)
    mean, split_mean = measure(case) / mlp.n_neurons, measure(split) / split.mlp.n_neurons
    assert (split_mean[2:] < mean[2:])[mean[2:] > 1e-9].all()  # less is rounding


# What does not enter, and what the zeros are.


@EXAMPLES
@given(SEEDS, ACTIVATIONS)
def test_bias_and_residual_do_not_enter(seed: int, activation: Activation) -> None:
    case = random_case(seed, activation)
    changed = with_mlp(case, b_in=noise(seed, case.mlp.n_neurons), b_out=noise(seed + 2, 5))
    changed = replace(changed, bias=noise(seed + 1, 5), x=noise(seed, 8, 5))
    torch.testing.assert_close(measure(changed), measure(case), rtol=1e-8, atol=1e-9)
    assert measure(case)[2:].max() > 0.1


@EXAMPLES
@given(SEEDS, st.booleans())
def test_the_residual_term_sees_an_error_only_through_the_neurons(seed: int, gated: bool) -> None:
    """R is zero for an error that no neuron reads, and I stays what it is for any error."""
    case = random_case(seed, gated=gated, error=0.0)
    mlp, blind = case.mlp, torch.tensor([1, 1, 1, 0, 0], dtype=F64)[:, None]
    gate = None if mlp.W_gate is None else mlp.W_gate * blind
    case = with_mlp(case, W_in=mlp.W_in * blind, W_gate=gate)
    unread = noise(seed, 8, 5) * torch.tensor([0, 0, 0, 1, 1], dtype=F64)
    error = noise(seed + 1, 8, 5)
    assert residual(case.view, case.x_hat + unread, case.x_hat).abs().max() < 1e-9
    assert residual(case.view, case.x_hat + error, case.x_hat).min() > 1e-3
    assert torch.equal(measure(replace(case, x=case.x_hat + error)), measure(case))


@EXAMPLES
@given(SEEDS, st.integers(1, 12), ACTIVATIONS)
def test_it_is_zero_exactly_where_every_neuron_reads_at_most_one_active_latent(
    seed: int, links: int, activation: Activation
) -> None:
    """Whole numbers, so that zero means zero: latent h is basis vector h, and few weights are."""
    draw = torch.Generator().manual_seed(seed)
    W_in = torch.zeros(6, 8, dtype=F64)
    rows, columns = (torch.randint(0, size, (links,), generator=draw) for size in (6, 8))
    W_in[rows, columns] = torch.randint(1, 5, (links,), generator=draw).double()
    W_in *= torch.randint(0, 2, W_in.shape, generator=draw) * 2 - 1
    W_out = torch.zeros(8, 6, dtype=F64)
    W_out[:, :2] = torch.tensor([3, 4], dtype=F64)  # of length 5
    mlp = MLPWeights(W_in, noise(seed, 8), W_out, torch.zeros(6, dtype=F64), activation)
    code = torch.randint(0, 3, (12, 6), generator=draw).double()
    case = Case(mlp, torch.eye(6, dtype=F64), noise(seed, 6), code, code)
    acting = ((code[:, :, None] * W_in) != 0).sum(1)
    assert torch.equal(measure(case) == 0, (acting <= 1).all(1))


@EXAMPLES
@given(SEEDS, ACTIVATIONS)
def test_a_gated_neuron_is_charged_for_one_latent_on_each_path(
    seed: int, activation: Activation
) -> None:
    one = torch.ones(1, dtype=F64)
    gate, value = noise(seed, 2).abs() + 0.1
    paths = torch.stack([torch.stack([gate, 0 * gate]), torch.stack([0 * value, value])], 0)
    mlp = MLPWeights(paths[1][:, None], 0 * one, noise(seed, 1, 2), noise(seed, 2), activation)
    mlp = replace(mlp, W_gate=paths[0][:, None], b_gate=0 * one)
    code = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=F64)
    case = Case(mlp, torch.eye(2, dtype=F64), torch.zeros(2, dtype=F64), code, code)
    assert measure(case)[0] > 0
    assert measure(case)[1:].tolist() == [0.0, 0.0, 0.0]
    assert second_difference_scores(case.view, case.latents)[0] > 0


@EXAMPLES
@given(SEEDS)
def test_a_relu_that_stays_on_adds_up_and_is_charged_all_the_same(seed: int) -> None:
    """The caution of T2: I is the cost of keeping one latent, not of treating them as additive."""
    case = random_case(seed, Activation.RELU)
    on = with_mlp(case, b_in=torch.full_like(case.mlp.b_in, 1e3))
    assert torch.equal(measure(on), measure(case))
    assert measure(on)[2:].max() > 0.1
    assert additive(on).abs().max() == 0
    # Neurons of about 1e3 cancel in second differences.
    rounding = slack(32, on.mlp.neurons(on.x_hat) @ on.mlp.output_norms())
    for context in ("alone", "others"):
        scores = second_difference_scores(on.view, on.latents, context)
        assert scores.max() < rounding < 1e-8
    off = with_mlp(case, b_in=torch.full_like(case.mlp.b_in, -1e3))
    assert additive(off).abs().max() == 0
    assert second_difference_scores(off.view, off.latents).max() == 0


@FEW
@given(SEEDS, ACTIVATIONS, st.sampled_from(["alone", "others"]))
def test_second_differences_are_at_most_the_oscillation_times_the_smaller_contribution(
    seed: int, activation: Activation, context: str
) -> None:
    case = random_case(seed, activation, scale=3.0, tokens=5)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    swing = 2 * LIPSCHITZ[activation] - 1
    nothing = 0.0 if activation is Activation.IDENTITY else swing
    for token, (h, k) in itertools.product(range(5), itertools.combinations(range(9), 2)):
        delta = dense_delta(case, token, h, k, context).abs()
        smaller = torch.minimum(dense.p[token, :, h].abs(), dense.p[token, :, k].abs())
        assert (delta <= nothing * smaller * (1 + 1e-9) + 1e-12).all()


@FEW
@given(SEEDS)
def test_relu_second_differences_have_the_sign_of_the_product_and_grow_with_each(
    seed: int,
) -> None:
    """T2.3, for two active latents: convexity."""
    case = random_case(seed, Activation.RELU)
    code = torch.zeros(4, 9, dtype=F64)
    low, high = noise(seed, 2, 2).abs().sort(0).values
    code[:, [5, 6]] = torch.stack([low, torch.stack([high[0], low[1]]), high, 2 * high])
    case = replace(case, activations=code)
    G = case.view.G
    for neuron in range(1, 12):
        games = [neuron_game(case.view, case.latents, token, neuron) for token in range(4)]
        deltas = torch.stack([shapley_taylor(game).matrix[0, 1] for game in games])
        assert (deltas * (G[5, neuron] * G[6, neuron]).sign() >= -1e-12).all()
        assert (deltas.abs().diff() >= -1e-12).all()


# What it is not invariant under.


@EXAMPLES
@given(SEEDS, st.booleans())
def test_mixing_latents_changes_it_although_the_reconstruction_is_the_same(
    seed: int, gated: bool
) -> None:
    case = random_case(seed, gated=gated)
    case.activations[2, 3:5] = torch.tensor([0.7, 0.4], dtype=F64)
    A = torch.eye(9, dtype=F64)
    A[3:5, 3:5] = torch.linalg.qr(noise(seed, 2, 2))[0]
    mixed = with_code(case, case.activations @ A.T, A @ case.decoder)
    assert (measure(mixed) - measure(case)).abs().max() > 1e-6


@EXAMPLES
@given(SEEDS)
def test_only_monomial_mixtures_never_change_it(seed: int) -> None:
    """A' = permutation × diagonal, of any signs, keeps I; any other makes one latent interact."""
    case = random_case(seed)
    case.decoder[0], case.decoder[2] = noise(
        seed, 2, 5
    )  # no zero decoder vector and no copies: generic
    case = replace(case, activations=torch.cat([case.activations, torch.eye(9, dtype=F64)]))
    order = noise(seed + 1, 9).argsort()
    monomial = torch.diag(noise(seed + 2, 9))[order]
    kept = with_code(case, case.activations @ torch.linalg.inv(monomial), monomial @ case.decoder)
    torch.testing.assert_close(measure(kept), measure(case), rtol=1e-7, atol=1e-7)
    A = torch.eye(9, dtype=F64)
    row, column = order[:2]
    A[row, column] = noise(seed + 3, 1)[0]
    mixed = with_code(case, case.activations @ torch.linalg.inv(A), A @ case.decoder)
    assert measure(case)[8:].abs().max() < 1e-12  # one latent alone never interacts
    assert measure(mixed)[8 + row] > 1e-9


@EXAMPLES
@given(SEEDS, st.integers(3, 8))
def test_a_duplicated_latent_raises_it_by_at_most_half_its_contribution(
    seed: int, latent: int
) -> None:
    case = random_case(seed)
    code = torch.cat([case.activations, case.activations[:, latent : latent + 1]], 1)
    code[:, [latent, 9]] /= 2
    copies = with_code(case, code, torch.cat([case.decoder, case.decoder[latent : latent + 1]]))
    contribution = case.activations[:, latent, None] * case.view.G[latent]
    half = contribution.abs() @ case.mlp.output_norms() / 2
    growth = measure(copies) - measure(case)
    assert (growth >= -1e-9).all()
    assert (growth <= half + 1e-9).all()
    # Alone at its token, it grows from zero by all of that.
    alone = replace(copies, activations=torch.zeros(1, 10, dtype=F64))
    alone.activations[0, [latent, 9]] = 1.0
    whole = case.view.G[latent].abs() @ case.mlp.output_norms()
    torch.testing.assert_close(measure(alone)[0], whole)


@EXAMPLES
@given(SEEDS)
def test_moving_a_constant_part_into_the_bias_changes_it(seed: int) -> None:
    case = random_case(seed)
    shift = torch.zeros(9, dtype=F64)
    shift[4] = 0.5
    always = replace(case, activations=case.activations + shift)
    moved = replace(case, bias=case.bias + shift @ case.decoder)
    torch.testing.assert_close(always.x_hat, moved.x_hat)
    assert (measure(always) - measure(moved)).abs().max() > 1e-3


@EXAMPLES
@given(SEEDS, st.floats(0.001, 1))
def test_shrinking_the_code_shrinks_it_and_the_residual_pays(seed: int, factor: float) -> None:
    """Why I alone is no objective: the zero code has no interaction at all."""
    case = random_case(seed, error=0.0)
    small = replace(case, activations=factor * case.activations)
    torch.testing.assert_close(measure(small), factor * measure(case))
    none = replace(case, activations=torch.zeros_like(case.activations))
    assert measure(none).abs().max() == 0
    errors = [residual(c.view, case.x, c.x_hat) for c in (case, small, none)]
    assert errors[0].abs().max() < 1e-9
    torch.testing.assert_close(errors[1], (1 - factor) * errors[2], rtol=1e-7, atol=1e-7)
    assert errors[2].max() > 0.1


@EXAMPLES
@given(SEEDS)
def test_one_latent_per_token_reconstructs_everything_without_interacting(seed: int) -> None:
    """The other degenerate minimiser: report the number of latents as well."""
    case = random_case(seed)
    points = case.x - case.bias
    table = replace(case, activations=torch.eye(8, dtype=F64), decoder=points)
    assert measure(table).abs().max() == 0
    assert residual(table.view, table.x, table.x_hat).abs().max() < 1e-9


# Blocks of latents.


@EXAMPLES
@given(SEEDS, ACTIVATIONS, st.booleans())
def test_blocks_of_latents_keep_the_bound_and_never_interact_more(
    seed: int, activation: Activation, gated: bool
) -> None:
    """A block's contribution at a token is that of one latent with the block's part of x̂."""
    case = random_case(seed, activation, gated=gated, error=0.0, tokens=5)
    block = torch.randint(0, 4, (9,), generator=torch.Generator().manual_seed(seed))
    for token in range(2, 5):
        parts = [case.activations[token, block == b] @ case.decoder[block == b] for b in range(4)]
        grouped = replace(
            case,
            decoder=torch.stack(parts),
            activations=torch.ones(1, 4, dtype=F64),
            x=case.x[[token]],
        )
        torch.testing.assert_close(grouped.x_hat, grouped.x)
        view, dominance = grouped.view, grouped.view.dominance(grouped.latents)
        error = (grouped.mlp(grouped.x) - view.output(dominance.value, dominance.gate)).norm()
        slope = 1.0 if gated else LIPSCHITZ[activation]
        assert error <= slope * measure(grouped)[0] * (1 + 1e-9) + 1e-9
        if not gated:
            assert measure(grouped)[0] <= measure(case)[token] * (1 + 1e-9) + 1e-9
