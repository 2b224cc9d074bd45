"""T1 and its consequences: the ladder, functionals, blocks; for any numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from dictionaries import F64, Case, random_case, random_mlp
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples
from reference import LIPSCHITZ, DenseMLP, DenseView
from rounding import gamma
from theory.blocks import (
    as_blocks,
)
from theory.dominant import (
    dominant_ladder,
    spectral_residuals,
)
from theory.functionals import (
    functional_bound,
    margin_bound,
    spectral_bound,
    triangle_bound,
)
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import MLPDictionary, interaction, residual
from crossproof.lm import Activation
from crossproof.lm.constants import CURVATURE
from crossproof.proof.bounds import (
    contributions,
    dominant_gap,
    gate_path,
    gram_bound,
    linear_path,
    residual_gap,
)
from crossproof.proof.bounds.preactivations import (
    signed_sums,
)

SLACK = 1e-9
EXAMPLES = examples(40)
SEEDS = st.integers(0, 2**31)


def plain_cases() -> st.SearchStrategy[Case]:
    return st.builds(
        random_case,
        seed=SEEDS,
        activation=st.sampled_from(list(Activation)),
        scale=st.sampled_from([0.1, 1.0, 10.0]),
        error=st.sampled_from([0.0, 0.1, 1.0, 1e4]),
    )


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def below(small: Tensor, large: Tensor) -> bool:
    return bool((small <= large * (1 + SLACK) + SLACK).all())


def signed(case: Case, seed: int) -> Case:
    """The same case with activations of either sign: no theorem needs them positive."""
    flips = noise(seed, *case.activations.shape).sign()
    activations = case.activations * flips
    x = case.x - case.x_hat + activations @ case.decoder + case.bias
    return Case(case.mlp, case.decoder, case.bias, activations, x)


@EXAMPLES
@given(plain_cases(), st.booleans(), SEEDS)
def test_every_rung_bounds_the_one_below(case: Case, flip: bool, seed: int) -> None:
    case = signed(case, seed) if flip else case
    rungs = dominant_ladder(case.view, case.latents, case.x)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    error = (case.mlp(case.x) - dense.dominant_output()).norm(dim=1)
    assert torch.allclose(rungs.B0, error, rtol=1e-8, atol=1e-8)
    for lower, upper in [("B0", "G1"), ("G1", "B1"), ("B1", "B2"), ("B2", "B3"), ("B3", "B4")]:
        assert below(getattr(rungs, lower), getattr(rungs, upper)), (lower, upper)
    assert below(rungs.B0, rungs.S1)


@EXAMPLES
@given(plain_cases())
def test_the_last_rung_is_residual_plus_constant_times_interaction(case: Case) -> None:
    view, latents = case.view, case.latents
    rungs = dominant_ladder(view, latents, case.x)
    charge = interaction(view, latents, view.dominance(latents))
    torch.testing.assert_close(rungs.interaction, charge, rtol=1e-9, atol=1e-9)
    expected = residual(view, case.x, case.x_hat)
    torch.testing.assert_close(rungs.residual, expected, rtol=1e-7, atol=1e-9)
    slope = LIPSCHITZ[case.mlp.activation.value]
    torch.testing.assert_close(rungs.B4, expected + slope * charge, rtol=1e-7, atol=1e-8)


@EXAMPLES
@given(plain_cases(), SEEDS)
def test_any_owner_is_sound_and_the_largest_charges_least(case: Case, seed: int) -> None:
    view, latents = case.view, case.latents
    rows = latents.offsets.diff()[:, None]
    random = (noise(seed, latents.n_tokens, 12).abs() * 1e6).long() % rows.clamp_min(1)
    owner = torch.where(rows > 0, latents.offsets[:-1, None] + random, -1)
    other = dominant_ladder(view, latents, case.x, view.dominance_of(latents, owner))
    assert below(other.B0, other.B2)
    assert below(other.B3, other.B4)
    best = dominant_ladder(view, latents, case.x)
    assert below(best.interaction, other.interaction)


@EXAMPLES
@given(plain_cases())
def test_local_gaps_lie_between_the_error_and_the_rungs(case: Case) -> None:
    activation, path = case.mlp.activation, linear_path(case.view, case.latents, case.x)
    gap = dominant_gap(activation, path)
    assert below((activation(path.true) - activation(path.kept)).abs(), gap)
    rungs, norms = dominant_ladder(case.view, case.latents, case.x), case.view.output_norms
    assert below(gap @ norms, rungs.B2)
    alone = residual_gap(activation, path)
    assert below((activation(path.true) - activation(path.reconstructed)).abs(), alone)
    assert below(alone @ norms, rungs.residual)


@EXAMPLES
@given(plain_cases())
@example(random_case(128, Activation.GELU, error=0.1))
def test_slack_only_widens(case: Case) -> None:
    activation = case.mlp.activation
    path = linear_path(case.view, case.latents, case.x, rigorous=True)
    bare = dominant_gap(activation, replace(path, slack=None))
    wide = dominant_gap(activation, path)
    moved = path.error + path.signed_rest.abs()
    slopes = gamma(64) * moved  # a computed slope is off by some roundings of numbers near 1
    assert (wide >= bare - slopes).all()
    # Slopes over intervals whose ends move by the slack, times errors that grow by it.
    curvature = 0 if activation is Activation.RELU else CURVATURE[activation]
    widened = 2 * path.slack * (LIPSCHITZ[activation.value] + curvature * moved)
    assert (wide <= bare + widened + slopes).all()


@EXAMPLES
@given(plain_cases())
def test_spectral_residuals_bound_the_residual_error(case: Case) -> None:
    error = (case.mlp(case.x) - case.mlp(case.x_hat)).norm(dim=1)
    near, far = spectral_residuals(case.mlp, case.x - case.x_hat)
    assert below(error, near)
    assert below(near, far)


@EXAMPLES
@given(SEEDS, st.integers(1, 12), st.integers(1, 6))
def test_the_functional_bound_is_attained_at_a_corner(seed: int, neurons: int, width: int) -> None:
    delta = noise(seed, 3, neurons).abs() * (noise(seed + 1, 3, neurons) > -1)
    W_out, u = noise(seed + 2, neurons, width), noise(seed + 3, width, 4)
    readout = W_out @ u
    bound = functional_bound(delta, readout)
    for f in range(4):
        corner = delta * readout[:, f].sign()
        reached = (corner @ W_out @ u[:, f]).abs()
        torch.testing.assert_close(reached, bound[:, f], rtol=1e-12, atol=1e-12)
        other = delta * noise(seed + 4 + f, 3, neurons).clamp(-1, 1)
        assert below((other @ W_out @ u[:, f]).abs(), bound[:, f])
        # No norm does better.
        assert below(bound[:, f], u[:, f].norm() * triangle_bound(delta, W_out))


@EXAMPLES
@given(SEEDS, st.integers(1, 12), st.integers(2, 6))
def test_margin_bounds_are_functional_bounds_of_differences(
    seed: int, neurons: int, classes: int
) -> None:
    delta, readout = noise(seed, 5, neurons).abs(), noise(seed + 1, neurons, classes)
    labels = torch.arange(5) % classes
    ours = margin_bound(delta, readout, labels)
    for token, label in enumerate(labels.tolist()):
        expected = delta[token] @ (readout[:, [label]] - readout).abs()
        torch.testing.assert_close(ours[token], expected, rtol=1e-12, atol=1e-12)
        assert ours[token, label] == 0


def test_margin_bounds_are_the_same_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    delta, readout, labels = noise(0, 5, 7).abs(), noise(1, 7, 9), torch.arange(5)
    whole = margin_bound(delta, readout, labels)
    gram = gram_bound(delta, readout)
    monkeypatch.setattr("crossproof.proof.bounds.outputs.CHUNK_ELEMENTS", 14)
    monkeypatch.setattr("theory.functionals.CHUNK_ELEMENTS", 14)
    torch.testing.assert_close(margin_bound(delta, readout, labels), whole)
    torch.testing.assert_close(gram_bound(delta, readout), gram)


@EXAMPLES
@given(SEEDS, st.integers(1, 10), st.integers(1, 6))
def test_norm_bounds_hold_at_every_corner(seed: int, neurons: int, width: int) -> None:
    delta, W_out = noise(seed, 4, neurons).abs(), noise(seed + 1, neurons, width)
    gram, triangle = gram_bound(delta, W_out), triangle_bound(delta, W_out)
    assert below(gram, triangle)
    for corner in range(20):
        moved = (delta * noise(seed + corner, 4, neurons).sign()) @ W_out
        assert below(moved.norm(dim=1), gram)
        assert below(moved.norm(dim=1), spectral_bound(delta, W_out))


def test_spectral_and_triangle_bounds_are_not_comparable() -> None:
    delta, parallel = torch.ones(1, 9, dtype=F64), torch.ones(9, 1, dtype=F64)
    orthogonal = torch.eye(9, dtype=F64)
    assert spectral_bound(delta, orthogonal).item() == pytest.approx(3)
    assert triangle_bound(delta, orthogonal).item() == pytest.approx(9)
    assert gram_bound(delta, orthogonal).item() == pytest.approx(3)
    assert spectral_bound(delta, parallel).item() == pytest.approx(9)
    assert triangle_bound(delta, parallel).item() == pytest.approx(9)
    assert spectral_bound(delta * torch.eye(9, dtype=F64)[:1], parallel).item() == pytest.approx(3)


@EXAMPLES
@given(plain_cases(), SEEDS)
def test_signed_sums_equal_a_dense_search(case: Case, seed: int) -> None:
    case = signed(case, seed)
    view = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    low, high = signed_sums(case.latents, case.view.G)
    torch.testing.assert_close(low, view.p.clamp_max(0).sum(2), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(high, view.p.clamp_min(0).sum(2), rtol=1e-10, atol=1e-10)


@EXAMPLES
@given(plain_cases())
def test_zero_set(case: Case) -> None:
    """Exactly 0 at a neuron where at most one latent acts, and only there (T2.1)."""
    path = linear_path(case.view, case.latents)
    view = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    alone = (view.p != 0).sum(2) <= 1
    assert (path.rest[alone] == 0).all()
    assert (path.rest[~alone] > 0).all()
    assert (dominant_gap(case.mlp.activation, path)[alone] == 0).all()
    rungs = dominant_ladder(case.view, case.latents)
    for token in (0, 1):  # no latent, one latent
        assert [rungs.B0[token].item(), rungs.B4[token].item()] == [0.0, 0.0]


def test_exact_cancellation_is_free_in_the_signed_rung_only() -> None:
    G = torch.tensor([[2.0], [1.0], [-1.0]], dtype=F64)
    mlp = random_mlp(Activation.GELU, False, torch.Generator().manual_seed(0), neurons=1)
    view = MLPDictionary(mlp, G, torch.zeros(1, dtype=F64))
    rungs = dominant_ladder(view, SparseLatents.from_dense(torch.ones(1, 3, dtype=F64)))
    assert rungs.B3.item() == 0
    assert rungs.interaction.item() == pytest.approx(2 * mlp.W_out.norm().item())


@EXAMPLES
@given(plain_cases(), SEEDS)
def test_a_lying_dictionary_only_loosens(case: Case, seed: int) -> None:
    """Wrong decoder, bias and activations: still a bound on the model's true distance."""
    lie = Case(case.mlp, noise(seed, 9, 5), noise(seed + 1, 5), case.activations, case.x)
    rungs = dominant_ladder(lie.view, lie.latents, case.x)
    dense = DenseView(DenseMLP(lie.mlp), lie.activations, lie.decoder, lie.bias)
    error = (case.mlp(case.x) - dense.dominant_output()).norm(dim=1)
    assert below(error, rungs.B2)


@EXAMPLES
@given(plain_cases(), SEEDS, st.booleans())
def test_blocks_are_latents_to_every_bound(case: Case, seed: int, gated: bool) -> None:
    case = random_case(seed, case.mlp.activation, gated)
    partition = torch.randint(0, 4, (9,), generator=torch.Generator().manual_seed(seed))
    blocks = as_blocks(case.view, case.latents, partition)
    onto = torch.nn.functional.one_hot(partition, 4).to(F64)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias)
    grouped = dense.p @ onto
    ours = torch.zeros(8, 12, 4, dtype=F64)
    tokens, rows = blocks.latents.token_index, blocks.view.G
    ours[tokens, :, blocks.block] = rows
    torch.testing.assert_close(ours, grouped, rtol=1e-9, atol=1e-9)
    assert blocks.latents.values.tolist() == [1.0] * len(tokens)
    torch.testing.assert_close(
        blocks.view.output(*blocks.view.sums(blocks.latents)), case.mlp(case.x_hat)
    )
    if not gated:
        rungs = dominant_ladder(blocks.view, blocks.latents, case.x)
        best = grouped.gather(2, grouped.abs().argmax(2, keepdim=True))[..., 0]
        error = (case.mlp(case.x) - dense.mlp.out(dense.beta + best, None)).norm(dim=1)
        assert torch.allclose(rungs.B0, error, rtol=1e-7, atol=1e-8)
        assert below(rungs.B0, rungs.B2)
        assert below(rungs.B2, rungs.B4)


@EXAMPLES
@given(SEEDS)
def test_trivial_partitions(seed: int) -> None:
    """Singletons change nothing; one block of everything never interacts."""
    case = random_case(seed)
    alone = as_blocks(case.view, case.latents, torch.arange(9))
    rungs = dominant_ladder(case.view, case.latents, case.x)
    same = dominant_ladder(alone.view, alone.latents, case.x)
    torch.testing.assert_close(same.interaction, rungs.interaction)
    torch.testing.assert_close(same.B2, rungs.B2)
    assert alone.block.tolist() == case.latents.indices.tolist()
    whole = as_blocks(case.view, case.latents, torch.zeros(9, dtype=torch.int64))
    assert dominant_ladder(whole.view, whole.latents).B4.abs().max() == 0


@EXAMPLES
@given(SEEDS)
def test_contributions_spell_out_the_latents(seed: int) -> None:
    case = random_case(seed)
    p = contributions(case.latents, case.view.G)
    dense = DenseView(DenseMLP(case.mlp), case.activations, case.decoder, case.bias).p
    assert p.shape == (8, int(case.latents.offsets.diff().max()), 12)
    ours, theirs = p.sort(dim=1)[0], dense.transpose(1, 2).sort(dim=1)[0]
    torch.testing.assert_close(ours.clamp_min(0).sum(1), theirs.clamp_min(0).sum(1))
    torch.testing.assert_close(ours.abs().amax(1), theirs.abs().amax(1))
    torch.testing.assert_close(p.sum(1), dense.sum(2))


def test_no_latent_at_all() -> None:
    case = random_case(0)
    empty = SparseLatents.from_dense(torch.zeros(3, 9, dtype=F64))
    assert contributions(empty, case.view.G).shape == (3, 0, 12)
    blocks = as_blocks(case.view, empty, torch.arange(9))
    assert len(blocks.block) == 0
    rungs = dominant_ladder(case.view, empty, case.x[:3])
    assert (rungs.interaction == 0).all()
    assert below(rungs.B0, rungs.B4)
    assert math.isfinite(rungs.B4.sum())


@pytest.mark.parametrize("partition", [torch.arange(8), torch.full((9,), -1)])
def test_a_partition_must_name_a_block_for_every_latent(partition: Tensor) -> None:
    case = random_case(0)
    with pytest.raises(CrossproofError, match=r"give every latent the number of its block"):
        as_blocks(case.view, case.latents, partition)


def test_a_gated_mlp_has_no_ladder_and_a_plain_one_no_gate() -> None:
    gated, plain = random_case(0, gated=True), random_case(0)
    with pytest.raises(CrossproofError, match="needs a plain MLP"):
        dominant_ladder(gated.view, gated.latents)
    with pytest.raises(CrossproofError, match="A plain MLP has no gate"):
        gate_path(plain.view, plain.latents)
