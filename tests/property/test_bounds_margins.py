"""T4: margins, cross-entropy, accuracy, the final norm and several blocks; for any numbers."""

from __future__ import annotations

import math

import pytest
import torch
from dictionaries import F64, Case, random_case, random_mlp
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from reference import DenseMLP, DenseView
from theory.additive import (
    additive_output,
)
from theory.dominant import (
    dominant_ladder,
)
from theory.functionals import (
    certified_correct,
    certified_margins,
    certified_margins_through_norm,
)
from theory.induction import (
    block_lipschitz,
    block_step,
    consistency_defect,
    latent_defects,
    mlp_lipschitz,
    norm_defect,
    norm_lipschitz,
    separable_defect,
)
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions import MLPDictionary
from crossproof.lm import Activation
from crossproof.lm.norms import Norm, correct_through_norm, margins_through_norm
from crossproof.proof.bounds import (
    Baselines,
    additive_gap,
    contributions,
    cross_entropy_bound,
    dominant_gap,
    gram_bound,
    label_margins,
    linear_path,
)

EXAMPLES = examples(40)
SEEDS = st.integers(0, 2**31)
CLASSES = 6


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def below(small: Tensor, large: Tensor, slack: float = 1e-9) -> bool:
    return bool((small <= large + slack * (1 + large.abs())).all())


def random_norm(seed: int, width: int, centred: bool, biased: bool = True) -> Norm:
    weight, bias = 1 + 0.5 * noise(seed, width), noise(seed + 1, width)
    return Norm(weight, bias if biased else 0 * bias, 1e-5, centred)


def in_ball(seed: int, centre: Tensor, radius: Tensor) -> Tensor:
    """A point of each ball; every other one on its surface."""
    step = noise(seed, *centre.shape)
    length = torch.rand(len(centre), generator=torch.Generator().manual_seed(seed), dtype=F64)
    length[::2] = 1
    return centre + step / step.norm(dim=1, keepdim=True) * (radius * length)[:, None]


@EXAMPLES
@given(SEEDS, st.booleans())
def test_the_norm_is_torchs(seed: int, centred: bool) -> None:
    norm, r = random_norm(seed, 5, centred), noise(seed + 2, 4, 5)
    if centred:
        theirs = torch.nn.functional.layer_norm(r, (5,), norm.weight, norm.bias, norm.epsilon)
    else:
        theirs = torch.nn.functional.rms_norm(r, (5,), norm.weight, norm.epsilon) + norm.bias
    torch.testing.assert_close(norm(r), theirs)


# --- one block, no norm ------------------------------------------------------------------------


def certificate(case: Case, seed: int, additive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels, certified margins and the true logits of x S + MLP(x) U, S a skip path."""
    U, skip = noise(seed, CLASSES, 5), noise(seed + 1, 5, CLASSES)
    labels = torch.arange(8) % CLASSES
    view, latents = case.view, case.latents
    path = linear_path(view, latents, case.x, rigorous=True)
    if additive:
        output = additive_output(view, latents)
        delta = additive_gap(case.mlp.activation, path, contributions(latents, view.G))
    else:
        output = view.output(view.dominance(latents).value)
        delta = dominant_gap(case.mlp.activation, path)
    abstract = case.x @ skip + output @ U.T
    mu = certified_margins(abstract, labels, delta, case.mlp.W_out @ U.T)
    return labels, mu, case.x @ skip + case.mlp(case.x) @ U.T, abstract


CASES = st.builds(
    random_case,
    seed=SEEDS,
    activation=st.sampled_from(list(Activation)),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    error=st.sampled_from([0.0, 0.01, 1.0, 1e4]),
)


@EXAMPLES
@given(CASES, SEEDS, st.booleans())
def test_certified_margins_loss_and_accuracy_are_true(
    case: Case, seed: int, additive: bool
) -> None:
    labels, mu, logits, _ = certificate(case, seed, additive)
    assert below(mu, label_margins(logits, labels), 1e-8)
    assert (mu[torch.arange(8), labels] == 0).all()
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert (loss <= cross_entropy_bound(mu, labels) + 1e-9 * logits.abs().amax(1)).all()
    correct = logits.argmax(1) == labels
    assert (correct | ~certified_correct(mu, labels)).all()


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)), st.booleans())
def test_without_residual_and_interaction_the_certificate_is_exact(
    seed: int, activation: Activation, additive: bool
) -> None:
    case = random_case(seed, activation, error=0.0)
    case.activations[:, :-1] = 0  # at most one latent a token
    exact = Case(case.mlp, case.decoder, case.bias, case.activations, case.x_hat)
    labels, mu, logits, _ = certificate(exact, seed, additive)
    torch.testing.assert_close(mu, label_margins(logits, labels), rtol=1e-9, atol=1e-9)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(cross_entropy_bound(mu, labels), loss, rtol=1e-8, atol=1e-8)


@EXAMPLES
@given(CASES, SEEDS)
def test_the_abstract_loss_and_the_worst_margin_error_are_a_weaker_bound(
    case: Case, seed: int
) -> None:
    labels, mu, _, abstract = certificate(case, seed, additive=True)
    loss = torch.nn.functional.cross_entropy(abstract, labels, reduction="none")
    worst = (label_margins(abstract, labels) - mu).amax(1)
    assert below(cross_entropy_bound(mu, labels), loss + worst)


@EXAMPLES
@given(SEEDS, st.sampled_from([0.1, 1.0, 100.0, 1e5]))
def test_cross_entropy_of_exact_margins(seed: int, scale: float) -> None:
    logits, labels = scale * noise(seed, 8, CLASSES), torch.arange(8) % CLASSES
    mu = label_margins(logits, labels)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    bound = cross_entropy_bound(mu, labels)
    assert (bound >= loss).all()
    torch.testing.assert_close(bound, loss, rtol=1e-9, atol=1e-9)
    assert certified_correct(mu, labels).tolist() == (logits.argmax(1) == labels).tolist()


def test_a_tie_is_not_correct() -> None:
    mu, labels = torch.tensor([[0.0, 0.0], [0.0, 1e-300]], dtype=F64), torch.tensor([0, 0])
    assert certified_correct(mu, labels).tolist() == [False, True]


# --- the final norm ----------------------------------------------------------------------------


@EXAMPLES
@given(SEEDS, st.booleans(), st.sampled_from([0.0, 0.1, 1.0, 30.0]))
def test_scale_and_lipschitz_constant_hold_on_the_ball(
    seed: int, centred: bool, radius: float
) -> None:
    norm, r = random_norm(seed, 6, centred), noise(seed + 2, 8, 6)
    r[0] = 1.0  # LayerNorm: exactly nothing left after centring
    rho = torch.full((8,), radius, dtype=F64)
    low, high = norm.scale_range(r, rho)
    slope = norm_lipschitz(norm, r, rho)
    for attempt in range(6):
        one, other = in_ball(seed + attempt, r, rho), in_ball(seed + attempt + 50, r, rho)
        assert below(low, norm.scale(one), 1e-12)
        assert below(norm.scale(one), high, 1e-12)
        moved = (norm(one) - norm(other)).norm(dim=1)
        assert below(moved, slope * (one - other).norm(dim=1))


@EXAMPLES
@given(SEEDS, st.booleans(), st.sampled_from([0.01, 0.3, 3.0]))
def test_margins_through_the_norm_are_true(seed: int, centred: bool, size: float) -> None:
    norm, U, bias = (
        random_norm(seed, 6, centred),
        noise(seed + 2, CLASSES, 6),
        noise(seed + 3, CLASSES),
    )
    r, W_out = noise(seed + 4, 8, 6), noise(seed + 5, 10, 6)
    delta, labels = size * noise(seed + 6, 8, 10).abs(), torch.arange(8) % CLASSES
    mu = certified_margins_through_norm(norm, r, labels, delta, W_out, U, bias)
    for attempt in range(10):
        step = delta * noise(seed + 7 + attempt, 8, 10).clamp(-1, 1)
        logits = norm(r + step @ W_out) @ U.T + bias
        assert below(mu, label_margins(logits, labels), 1e-8)
    assert (mu[torch.arange(8), labels] == 0).all()


@EXAMPLES
@given(SEEDS, st.booleans())
def test_the_sign_of_both_forms_agrees(seed: int, biased: bool) -> None:
    """μ > 0 exactly where the accuracy form is positive; without biases the norm is free."""
    least, low = noise(seed, 8, CLASSES), noise(seed + 1, 8).abs() + 0.1
    scales = low, low + noise(seed + 2, 8).abs()
    shift = noise(seed + 3, 8, CLASSES) * biased
    mu = margins_through_norm(least, shift, scales, 6)
    form = correct_through_norm(least, shift, scales, 6)
    clear = mu.abs() > 1e-9
    assert (mu > 0)[clear].tolist() == (form > 0)[clear].tolist()
    if not biased:
        assert (mu > 0).tolist() == (least > 0).tolist()


@pytest.mark.parametrize("centred", [False, True])
def test_an_attack_on_the_norm_reaches_its_lipschitz_constant(centred: bool) -> None:
    """At the point of the ball nearest to the origin, across the radius: √D max|weight| / s_lo."""
    weight, across = torch.ones(6, dtype=F64), torch.zeros(6, dtype=F64)
    across[4] = 1e-4
    if centred:  # a direction of mean zero
        across[5] = -1e-4
        across = across / math.sqrt(2)
    else:
        weight[4] = 3.0
    norm = Norm(weight, torch.zeros(6, dtype=F64), 1e-9, centred)
    r = torch.tensor([[3.0, -3.0, 0, 0, 0, 0]], dtype=F64)
    rho = torch.tensor([1.0], dtype=F64)
    step = (0.05 * noise(0, 16, 6)).requires_grad_()
    adam = torch.optim.Adam([step], lr=0.02)
    best = 0.0
    for _ in range(600):
        # A pair of points 1e-4 apart, pushed back into the ball.
        start = step / (step.norm(dim=1, keepdim=True).clamp_min(1) * (1 + 1e-4))
        moved = (norm(r + start + across) - norm(r + start)).norm(dim=1) / 1e-4
        best = max(best, moved.max().item())
        adam.zero_grad()
        (-moved.sum()).backward()
        adam.step()
    assert 0.99 <= best / norm_lipschitz(norm, r, rho).item() <= 1 + 1e-9


# --- several blocks ----------------------------------------------------------------------------


@EXAMPLES
@given(
    SEEDS,
    st.sampled_from(list(Activation)),
    st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    st.booleans(),
)
def test_the_lipschitz_constant_of_an_mlp_holds_on_the_ball(
    seed: int, activation: Activation, radius: float, skip: bool
) -> None:
    mlp = random_mlp(activation, False, torch.Generator().manual_seed(seed))
    x, rho = noise(seed, 6, 5), torch.full((6,), radius, dtype=F64)
    slope = mlp_lipschitz(mlp, x, rho, skip)
    for attempt in range(6):
        one, other = in_ball(seed + attempt, x, rho), in_ball(seed + attempt + 50, x, rho)
        moved = mlp(one) - mlp(other) + (one - other) * skip
        assert below(moved.norm(dim=1), slope * (one - other).norm(dim=1))


@pytest.mark.parametrize("activation", list(Activation))
def test_the_lipschitz_constant_shrinks_to_the_jacobians_norm(activation: Activation) -> None:
    mlp = random_mlp(activation, False, torch.Generator().manual_seed(0))
    x = noise(3, 1, 5)
    jacobian = torch.autograd.functional.jacobian(lambda v: mlp(v), x)[0, :, 0]
    slope = mlp_lipschitz(mlp, x, torch.full((1,), 1e-9, dtype=F64))
    assert slope.item() == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item(), rel=1e-5)


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)), st.sampled_from([0.0, 0.01, 0.3]), st.booleans())
def test_a_ball_of_inputs_lands_in_the_next_ball(
    seed: int, activation: Activation, radius: float, additive: bool
) -> None:
    """One induction step of r -> r + MLP(norm r) on random dictionaries at all hookpoints."""
    mlp = random_mlp(activation, False, torch.Generator().manual_seed(seed))
    norm, latents = random_norm(seed, 5, centred=True), random_case(seed).latents
    decoder, biases = noise(seed + 3, 3, 9, 5), noise(seed + 4, 3, 5)
    before, x_hat, after = (latents.dense() @ decoder[k] + biases[k] for k in range(3))
    rho = torch.full((8,), radius, dtype=F64)
    view = MLPDictionary.build(mlp, decoder[1], biases[1])
    x = norm(before)
    path = linear_path(view, latents, x)
    if additive:
        gap = additive_gap(activation, path, contributions(latents, view.G))
        output = additive_output(view, latents)
    else:
        gap, output = dominant_gap(activation, path), view.output(view.dominance(latents).value)
    torch.testing.assert_close(path.error, norm_defect(mlp, norm, before, x_hat))
    step = block_step(
        rho,
        block_lipschitz(mlp, norm, before, rho),
        gram_bound(gap, mlp.W_out),
        consistency_defect(before, after, output),
    )
    for attempt in range(6):
        r = in_ball(seed + attempt, before, rho)
        assert below((r + mlp(norm(r)) - after).norm(dim=1), step)


@EXAMPLES
@given(SEEDS, st.sampled_from(list(Activation)))
def test_the_separable_defect_is_checked_once_a_latent(seed: int, activation: Activation) -> None:
    case = random_case(seed, activation)
    other, shift = noise(seed + 1, 9, 5), noise(seed + 2, 5)
    before, after = case.x_hat, case.activations @ other + shift
    view, latents = case.view, case.latents
    whole = consistency_defect(before, after, additive_output(view, latents))
    separable = separable_defect(view, latents, other - case.decoder, shift - case.bias)
    assert below(whole, separable)
    # With one active latent at a time the curve of each stands alone, exactly.
    alone = SparseLatents.from_dense(torch.eye(9, dtype=F64))
    dense = DenseView(DenseMLP(case.mlp), torch.eye(9, dtype=F64), case.decoder, case.bias)
    empty = DenseView(DenseMLP(case.mlp), torch.zeros(1, 9, dtype=F64), case.decoder, case.bias)
    curve = dense.additive_output() - empty.additive_output()
    expected = (other - case.decoder - curve).norm(dim=1)
    ours = latent_defects(view, alone, other - case.decoder)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_consistent_dictionary_has_no_defect_and_a_zero_step() -> None:
    """Decoders that follow the MLP exactly: one latent, next its curve at 1."""
    case = random_case(0)
    one = SparseLatents.from_dense(torch.eye(9, dtype=F64)[[4]])
    view = case.view
    base = case.mlp.activation(view.baseline) @ case.mlp.W_out + case.mlp.b_out
    curve = additive_output(view, one)[0] - base
    steps = torch.zeros(9, 5, dtype=F64)
    steps[4] = curve
    defect = separable_defect(view, one, steps, base)
    assert defect.item() < 1e-12
    zero = torch.zeros(1, dtype=F64)
    rungs = dominant_ladder(view, one)
    assert block_step(zero, zero + 5, rungs.B4, zero).item() < 1e-300


# --- vacuity -----------------------------------------------------------------------------------


def test_baselines_and_vacuity() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    baselines = Baselines.of(labels, 4)
    assert baselines.log_classes == pytest.approx(math.log(4))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert baselines.unigram_entropy == pytest.approx(entropy)
    assert baselines.majority == 0.75
    assert baselines.cross_entropy_vacuous(entropy + 1e-6)
    assert baselines.cross_entropy_vacuous(math.nan)
    assert not baselines.cross_entropy_vacuous(entropy - 1e-6)
    assert baselines.accuracy_vacuous(0.75)
    assert not baselines.accuracy_vacuous(0.751)


def test_baselines_need_labels() -> None:
    with pytest.raises(CrossproofError, match="at least one label"):
        Baselines.of(torch.zeros(0, dtype=torch.int64), 4)
