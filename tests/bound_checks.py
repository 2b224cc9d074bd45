"""Inequalities of the bounds' theory on targeted inputs, where they are nearly equalities.

Every check takes the modules of `crossproof.proof` as attributes of one object, so that it can be
run on a changed copy of them, and fails with AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import torch
from dictionaries import F64, random_case, random_mlp
from reference import DenseMLP, DenseView, act
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.interactions import MLPDictionary
from crossproof.lm import Activation, MLPWeights

CURVED = [a for a in Activation if a not in (Activation.RELU, Activation.IDENTITY)]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def check(small: Tensor, large: Tensor, slack: float = 1e-12) -> None:
    assert (small <= large + slack * (1 + large.abs())).all()


def one_neuron(
    activation: Activation, beta: float, p: list[float]
) -> tuple[MLPDictionary, SparseLatents]:
    """One neuron that writes 1 to a residual stream of width 1, with given contributions."""
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    mlp = MLPWeights(one, torch.tensor([beta], dtype=F64), one, zero, activation)
    G = torch.tensor(p, dtype=F64)[:, None]
    latents = SparseLatents.from_dense(torch.ones(1, len(p), dtype=F64))
    return MLPDictionary(mlp, G, mlp.b_in), latents


# --- checks: each a targeted input on which an inequality is nearly an equality -----------------


PEAK = {
    Activation.RELU: 1.0,
    Activation.GELU: 1.4142135623730951,
    Activation.GELU_TANH: 1.4185040087908284,
    Activation.SILU: 2.3993572805154677,
    Activation.QUICK_GELU: 1.4097281319127307,
    Activation.IDENTITY: 1.0,
}


@cache
def steepest(activation: Activation) -> Callable[[SimpleNamespace], None]:
    """T1 where the slope is largest: the dominant latent brings the neuron to x*."""

    def run(m: SimpleNamespace) -> None:
        view, latents = one_neuron(activation, PEAK[activation] - 5e-4 - 2, [2.0, 1e-3])
        rungs = m.ladder.dominant_ladder(view, latents)
        for bound in (rungs.B2, rungs.B3, rungs.B4):
            check(rungs.B0, bound)
        path = m.paths.linear_path(view, latents)
        check(rungs.B0, m.ladder.dominant_gap(activation, path)[:, 0])
        # The same for a residual in the interaction's place.
        view, latents = one_neuron(activation, PEAK[activation] - 5e-4 - 2, [2.0])
        x = torch.tensor([[2.0 + 1e-3]], dtype=F64)
        rungs = m.ladder.dominant_ladder(view, latents, x)
        check(rungs.B0, rungs.B4)

    return run


def falling(m: SimpleNamespace) -> None:
    """T1 where σ' is negative, and where the neuron is on the way there."""
    for activation in CURVED:
        at = -PEAK[activation]
        for beta, p in [(at - 5e-4 + 2, [-2.0, 1e-3]), (at - 2, [2.0, 1e-3])]:
            view, latents = one_neuron(activation, beta, p)
            path = m.paths.linear_path(view, latents)
            rungs = m.ladder.dominant_ladder(view, latents)
            check(rungs.B0, m.ladder.dominant_gap(activation, path)[:, 0])
            check(rungs.B0, rungs.B2)


@cache
def swinging(activation: Activation) -> Callable[[SimpleNamespace], None]:
    """T2.2 where σ' swings most: a large contribution moves from -x* to x*, a small one looks."""

    def run(m: SimpleNamespace) -> None:
        peak, h = PEAK[activation], 1e-3
        for sign in (1, -1):  # also with both contributions negative
            beta = torch.tensor([-sign * (peak + h / 2)], dtype=F64)
            p = sign * torch.tensor([[[2 * peak], [h]]], dtype=F64)
            error = m.additive.additive_error(activation, beta, p).abs()
            bounds = m.additive.additive_bounds(activation, beta, p)
            for form in (bounds.sharp, bounds.ordered, bounds.rest, bounds.pairs):
                check(error, form)
            check(error, torch.tensor(m.constants.OSCILLATION[activation] * h))
            Q = m.additive.pair_interactions(activation, beta, p, torch.ones(1, dtype=F64))
            check(error[:, 0], Q.sum((1, 2)) / 2)

    return run


@cache
def bending(activation: Activation) -> Callable[[SimpleNamespace], None]:
    """T2.2 where σ' bends most: two small contributions around 0."""

    def run(m: SimpleNamespace) -> None:
        h = 1e-3
        p = torch.full((1, 2, 1), h, dtype=F64)
        beta = torch.tensor([-h], dtype=F64)
        error = m.additive.additive_error(activation, beta, p).abs()
        bounds = m.additive.additive_bounds(activation, beta, p)
        check(error, bounds.curved, 1e-14)
        check(error, bounds.sharp, 1e-14)

    return run


def centring(m: SimpleNamespace) -> None:
    """T1c where a ReLU crosses its kink at one end, both ways, and where only rounding is left."""
    relu = Activation.RELU
    for beta, p in [(-1e-3, 1.0), (1.0, -1.0 - 1e-3), (-1.0, 2.0)]:
        view, latents = one_neuron(relu, beta, [0.0])
        path = m.paths.linear_path(view, latents, torch.tensor([[p]], dtype=F64))
        found = m.centred.centred_gap(relu, path)
        check((relu(path.true) - relu(path.kept) - found.step).abs(), found.gap)
    # No half is left on one side of the kink, but z may be off by the slack, times the slope.
    view, latents = one_neuron(relu, 1.0, [1.0])
    path = replace(m.paths.linear_path(view, latents), slack=torch.full((1, 1), 0.1, dtype=F64))
    found = m.centred.centred_gap(relu, path)
    missed = relu(path.true + 0.1) - relu(path.kept) - found.step
    check(missed.abs(), found.gap)
    # The half counts the slack too: z is 0.1 further over the kink than it seems.
    path = replace(m.paths.linear_path(*one_neuron(relu, 0.05, [0.0])), slack=path.slack)
    found = m.centred.centred_gap(relu, path)
    for moved in (-0.1, 0.1):
        check((relu(path.true + moved) - relu(path.kept) - found.step).abs(), found.gap)


def lowest(m: SimpleNamespace) -> None:
    for activation in Activation:
        if activation is not Activation.IDENTITY:
            lows = act(activation.value, torch.linspace(-3, 0, 300_001, dtype=F64))
            assert lows.min().item() >= m.constants.MINIMUM[activation]


def kept(m: SimpleNamespace) -> None:
    """T1 against an independent dense model, signs and biases of every kind."""
    for seed in range(12):
        activation = list(Activation)[seed % len(Activation)]
        case = random_case(seed, activation, error=1.0)
        flips = noise(seed, *case.activations.shape).sign()
        latents = SparseLatents.from_dense(case.activations * flips)
        dense = DenseView(DenseMLP(case.mlp), latents.dense(), case.decoder, case.bias)
        exact = latents.dense() @ case.decoder + case.bias
        for x in (case.x, exact, exact + 1e-3 * noise(seed, 8, 5)):
            rungs = m.ladder.dominant_ladder(case.view, latents, x)
            distance = (case.mlp(x) - dense.dominant_output()).norm(dim=1)
            for name in ("B0", "G1", "B1", "B2", "B3", "B4", "S1"):
                check(distance, getattr(rungs, name), 1e-9)
            neurons = case.mlp.neurons(x)
            path = m.paths.linear_path(case.view, latents, x)
            best = dense.p.gather(2, dense.owner)[..., 0]
            alone = act(activation.value, dense.beta + best)
            check((neurons - alone).abs(), m.ladder.dominant_gap(activation, path), 1e-9)
            full = act(activation.value, dense.beta + dense.p.sum(2))
            check((neurons - full).abs(), m.ladder.residual_gap(activation, path), 1e-9)


def added(m: SimpleNamespace) -> None:
    """T2.2 against an independent dense model, with residual and either sign of activation."""
    for seed in range(12):
        activation = list(Activation)[seed % len(Activation)]
        case = random_case(seed, activation, error=[0.0, 1.0][seed % 2])
        flips = noise(seed, *case.activations.shape).sign()
        latents = SparseLatents.from_dense(case.activations * flips)
        x = latents.dense() @ case.decoder + case.bias + case.x - case.x_hat
        dense = DenseView(DenseMLP(case.mlp), latents.dense(), case.decoder, case.bias)
        base = act(activation.value, dense.beta)
        alone = act(activation.value, dense.beta[:, None] + dense.p) - base[:, None]
        distance = (case.mlp.neurons(x) - base - alone.sum(2)).abs()
        path, p = m.paths.linear_path(case.view, latents, x), dense.p.transpose(1, 2)
        check(distance, m.additive.additive_gap(activation, path, p), 1e-9)
        output = m.additive.additive_output(case.view, latents)
        torch.testing.assert_close(output, dense.additive_output())


def cancelling(m: SimpleNamespace) -> None:
    """T2.2 with contributions that cancel: partial sums of either sign, a hull beyond the ends."""
    for p in ([2.0, -1.9, 1.0], [-2.0, 1.9, 1.0], [3.0, -3.0, 0.5], [-3.0, 3.0, -0.5], [2.0, 2.0]):
        for activation in (Activation.RELU, Activation.GELU):
            beta = torch.linspace(-4, 4, 81, dtype=F64)
            rows = torch.tensor(p, dtype=F64)[None, :, None].expand(1, len(p), 81)
            error = m.additive.additive_error(activation, beta, rows).abs()
            bounds = m.additive.additive_bounds(activation, beta, rows)
            for form in ("sharp", "ordered", "rest", "pairs", "curved"):
                check(error, getattr(bounds, form))


def slackened(m: SimpleNamespace) -> None:
    """A path's slack is room for the truth: anything within it must stay within the gap."""
    beta, p = torch.tensor([-1.0, 0.0, 1.0], dtype=F64), torch.tensor([[0.4, 0.2, -0.3]], dtype=F64)
    slack = torch.full((1, 3), 0.5, dtype=F64)
    path = m.paths.Preactivations(beta, p, p.clamp_max(0), p.clamp_min(0), beta + p, slack)
    for activation in Activation:
        for shift in (-0.5, 0.5):
            moved = (activation(beta + p + shift) - activation(beta + p)).abs()
            check(moved, m.ladder.residual_gap(activation, path))
            check(moved, m.ladder.dominant_gap(activation, path))
            check(moved, m.additive.additive_gap(activation, path, p[:, None]))


def boxed(m: SimpleNamespace) -> None:
    for seed in range(20):
        beta, high = noise(seed, 7), 2 * noise(seed + 1, 4, 3, 7)
        low = 0.3 * high
        bottom, top = m.additive.convex_range(Activation.RELU, beta, low, high)
        for share in (0.0, 0.3, 0.5, 1.0):
            error = m.additive.additive_error(Activation.RELU, beta, low + share * (high - low))
            check(bottom, error)
            check(error, top)


def projected(m: SimpleNamespace) -> None:
    delta, W_out, u = noise(0, 5, 9).abs(), noise(1, 9, 4), noise(2, 4, 6)
    readout, labels = W_out @ u, torch.arange(5)
    bound, margins = m.functionals.functional_bound(delta, readout), None
    margins = m.functionals.margin_bound(delta, readout, labels)
    for seed in range(6):
        corner = delta * noise(seed + 9, 5, 9).sign()
        check((corner @ W_out).norm(dim=1), m.functionals.gram_bound(delta, W_out))
        check((corner @ W_out).norm(dim=1), m.functionals.triangle_bound(delta, W_out))
    top = torch.linalg.svd(W_out)[0][:, 0]
    check((top @ W_out).norm()[None], m.functionals.spectral_bound(top[None].abs(), W_out))
    opposed = torch.tensor([[1.0], [-1.0]], dtype=F64)
    two = torch.ones(1, 2, dtype=F64)
    check(torch.tensor([2.0]), m.functionals.gram_bound(two, opposed))
    for f in range(6):
        corner = delta * readout[:, f].sign()
        check((corner @ readout[:, f]).abs(), bound[:, f])
        for token in range(5):
            row = readout[:, token] - readout[:, f]
            check((delta[token] * row.sign()) @ row, margins[token, f])


def crossing(m: SimpleNamespace) -> None:
    """T3 at the corners: everything on the gate, everything behind it, one latent on each."""
    values = torch.tensor([-2.0, 0.0, 2.0], dtype=F64)
    grid = torch.cartesian_prod(values, values, values, values).T[:, None]
    owner_gate, owner_linear, other_gate, other_linear = grid
    for activation in (Activation.RELU, Activation.SILU, Activation.IDENTITY):
        for at_gate in (-PEAK[activation] - 2, -2.0, 0.0, PEAK[activation] - 2):
            base = torch.full((81,), at_gate, dtype=F64), torch.zeros(81, dtype=F64)
            parts = (
                ((owner_gate, 1e-3 * other_gate), (owner_linear, 1e-3 * other_linear)),
                (
                    (owner_gate, other_gate),
                    (owner_linear, other_linear),
                ),
            )
            for gates, linears in parts:
                _gated(m, activation, base, gates, linears)


def _gated(
    m: SimpleNamespace,
    activation: Activation,
    base: tuple[Tensor, Tensor],
    gates: tuple[Tensor, Tensor],
    linears: tuple[Tensor, Tensor],
) -> None:
    made = []
    for beta, (own, other) in zip(base, (gates, linears), strict=True):
        low, high = own.clamp_max(0) + other.clamp_max(0), own.clamp_min(0) + other.clamp_min(0)
        made.append(m.paths.Preactivations(beta, own, low, high, beta + own + other))
    full = activation(base[0] + sum(gates)) * (base[1] + sum(linears))
    alone = activation(base[0] + gates[0]) * (base[1] + linears[0])
    moved = (full - alone).abs()
    check(moved, m.gated.gated_interaction(activation, *made).total)
    check(moved, m.gated.gated_interaction(activation, *made, signed=True, local=True).total)
    check(moved, m.gated.gated_gap(activation, *made))
    # The same movement as a residual: the owner is all that is reconstructed.
    left = [
        m.paths.Preactivations(beta, own, own.clamp_max(0), own.clamp_min(0), beta + own + other)
        for beta, (own, other) in zip(base, (gates, linears), strict=True)
    ]
    check(moved, m.gated.gated_residual(activation, *left).total)
    check(moved, m.gated.gated_gap(activation, *left))


def gated_pairs(m: SimpleNamespace) -> None:
    for seed in range(20):
        activation = [Activation.RELU, Activation.SILU, Activation.IDENTITY][seed % 3]
        base = 2 * noise(seed, 6), [0.0, 3.0][seed % 2] * noise(seed + 1, 6)
        p_gate, p_linear = noise(seed + 2, 4, 2, 6), noise(seed + 3, 4, 2, 6)
        p_linear[:, 0] *= seed % 4 != 3
        error = m.gated.gated_additive_error(activation, base, p_gate, p_linear).abs()
        check(error, m.gated.gated_additive_bound(activation, base, p_gate, p_linear))
        for n in range(6):
            weight = torch.nn.functional.one_hot(torch.tensor(n), 6).to(F64)
            Q = m.gated.gated_pair_interactions(activation, base, p_gate, p_linear, weight)
            check(error[:, n], Q.sum((1, 2)) / 2)


def attending(m: SimpleNamespace) -> None:
    width = torch.tensor([0.5, 2.0, 6.0], dtype=F64)
    heavy = torch.sigmoid(-width / 2)  # the mass 1 / (1 + √r) that moves furthest, r = e^w
    A_hat = torch.stack([heavy, 1 - heavy], 1)
    score = A_hat.log() + torch.stack([width / 2, -width / 2], 1)
    moved = (score.softmax(1) - A_hat).abs().sum(1) / 2
    check(moved, m.attention.variation_of_range(width))
    check(moved, m.attention.variation_of_error(width / 2))
    low, high = m.attention.weight_interval(A_hat, width[:, None].expand(3, 2) / 2)
    check(score.softmax(1)[:, 0], high[:, 0])
    check(low[:, 1], score.softmax(1)[:, 1])
    lopsided = torch.tensor([[1.0, 0.0]], dtype=F64)
    values = torch.tensor([[2.0, -3.0]], dtype=F64)
    gone = torch.ones(1, dtype=F64)
    swapped = ((lopsided - lopsided.flip(1)) * values).sum(1).abs()
    check(swapped, m.attention.functional_value_error(gone, values))
    check(swapped, m.attention.value_error(gone, values[..., None]))
    most = m.attention.extremal_average(values, 0 * lopsided, 0 * lopsided + 0.8)
    torch.testing.assert_close(most, torch.tensor([0.8 * 2 - 0.2 * 3], dtype=F64))


def scoring(m: SimpleNamespace) -> None:
    for seed in range(6):
        query, key, form = noise(seed, 1, 3, 4), noise(seed + 1, 1, 2, 4), noise(seed + 2, 4, 4)
        scores = m.attention.bilinear_scores(query, key, form, 1 / 3)
        x, y = query.sum(1), key.sum(1)
        torch.testing.assert_close(scores.sum((1, 2)), (x @ form @ y.T)[0] / 3)
        kept_pairs = m.attention.dominant_pair(scores)
        dropped = torch.where(kept_pairs, 0, scores).sum((1, 2)).abs()
        check(dropped, m.attention.score_error(scores, kept_pairs))
        agreeing = scores.sign() * scores  # all of one sign: the sum of magnitudes is attained
        check(
            agreeing.sum((1, 2)) - agreeing.amax((1, 2)),
            m.attention.score_error(scores, kept_pairs),
        )
        # Residuals on one side, on the other, on both.
        for ex, ey in [(1.0, 0.0), (0.0, 1.0), (30.0, 30.0)]:
            e, f = ex * noise(seed + 3, 1, 4), ey * noise(seed + 4, 1, 4)
            true = ((x + e) @ form @ (y + f).T - x @ form @ y.T)[0].abs() / 3
            check(true, m.attention.score_residual((x, e), (y, f), form, 1 / 3))


def certified(m: SimpleNamespace) -> None:
    """T4 without a norm, at the corner where every neuron is as wrong as it may be."""
    logits, delta, readout = noise(0, 6, 4), noise(1, 6, 9).abs(), noise(2, 9, 4)
    labels = torch.arange(6) % 4
    mu = m.margins.certified_margins(logits, labels, delta, readout)
    for token, label in enumerate(labels.tolist()):
        for c in range(4):
            row = readout[:, label] - readout[:, c]
            margin = logits[token, label] - logits[token, c] - (delta[token] * row.abs()).sum()
            check(mu[token, c], margin)
    exact = logits[torch.arange(6), labels][:, None] - logits
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    check(loss, m.margins.cross_entropy_bound(exact, labels))
    correct = logits.argmax(1) == labels
    assert (correct | ~m.margins.certified_correct(exact, labels)).all()
    tie = torch.zeros(1, 2, dtype=F64), torch.tensor([0])
    assert not m.margins.certified_correct(*tie).item()


def normed(m: SimpleNamespace) -> None:
    """T4 with a norm: balls that hold the origin, margins of either sign, shifts of either sign."""
    for centred in (False, True):
        norm = m.norms.Norm(torch.ones(5, dtype=F64), torch.zeros(5, dtype=F64), 1e-4, centred)
        r = noise(0, 6, 5) + 3
        length = norm.centre(r).norm(dim=1)
        along = norm.centre(r) / length[:, None]
        for radius in (0.5 * length, 1.5 * length):
            low, high = norm.scale_range(r, radius)
            for step in (-1.0, -2 / 3, 1.0):
                scale = norm.scale(r + step * radius[:, None] * along)
                check(low, scale)
                check(scale, high)
            nearest = r - along * torch.minimum(radius, length)[:, None]
            across = noise(1, 6, 5)
            across = norm.centre(across)
            across = across - (across * along).sum(1, keepdim=True) * along
            across = 1e-5 * across / across.norm(dim=1, keepdim=True)
            moved = (norm(nearest + across) - norm(nearest)).norm(dim=1) / 1e-5
            check(moved, m.norms.norm_lipschitz(norm, r, radius), 1e-6)
    least = torch.tensor([[2.0, -2.0, 2.0, -2.0]], dtype=F64)
    shift = torch.tensor([[1.0, 1.0, -1.0, -1.0]], dtype=F64)
    scales = torch.tensor([1.0], dtype=F64), torch.tensor([4.0], dtype=F64)
    mu = m.norms.margins_through_norm(least, shift, scales, 4)
    form = m.norms.correct_through_norm(least, shift, scales, 4)
    for s in (1.0, 2.0, 4.0):
        check(mu, 2 * least / s + shift)
        check(form, 2 * least + s * shift)


def through_norm(m: SimpleNamespace) -> None:
    """The whole chain of T4a on corners of the box of neurons, with biases and LayerNorm."""
    for centred in (False, True):
        norm = m.norms.Norm(1 + 0.3 * noise(1, 6), noise(2, 6), 1e-5, centred)
        r, W_out, U, bias = noise(3, 8, 6) + 1, noise(4, 10, 6), noise(5, 3, 6), 2 * noise(6, 3)
        labels = torch.arange(8) % 3
        delta = 0.02 * noise(7, 8, 10).abs()
        mu = m.margins.certified_margins_through_norm(norm, r, labels, delta, W_out, U, bias)
        for c in range(3):
            gap = norm.directions(U)[labels] - norm.directions(U)[c]
            for sign in (-1, 0, 1):
                step = sign * delta * (gap @ W_out.T).sign()
                logits = norm(r + step @ W_out) @ U.T + bias
                margin = logits.gather(1, labels[:, None])[:, 0] - logits[:, c]
                check(mu[:, c], margin, 1e-9)


def inductive(m: SimpleNamespace) -> None:
    radius, three = torch.ones(1, dtype=F64), torch.tensor([3.0], dtype=F64)
    for terms in [(radius, three, 0 * three, 0 * three), (0 * radius, three, three, 0 * three)]:
        check(three, m.induction.block_step(*terms))
    check(three, m.induction.block_step(0 * radius, three, 0 * three, three))
    for activation in (Activation.RELU, Activation.GELU, Activation.SILU):
        one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
        mlp = MLPWeights(one, zero, one, zero, activation)
        norm = m.norms.Norm(torch.ones(1, dtype=F64), zero, 1e6, False)
        for at in (-PEAK[activation] + 1, PEAK[activation] - 1, 0.0):
            x, rho = torch.full((1, 1), at, dtype=F64), torch.ones(1, dtype=F64)
            points = torch.linspace(at - 1, at + 1, 2001, dtype=F64)[:, None]
            slope = (mlp(points).diff(dim=0) / points.diff(dim=0)).abs().max()
            check(slope, m.induction.mlp_lipschitz(mlp, x, rho), 1e-9)
            steep = (points + mlp(points)).diff(dim=0) / points.diff(dim=0)
            check(steep.abs().max(), m.induction.mlp_lipschitz(mlp, x, rho, skip=True), 1e-9)
            through = (points + mlp(norm(points))).diff(dim=0) / points.diff(dim=0)
            bound = m.induction.block_lipschitz(mlp, norm, x, rho)
            check(through.abs().max(), bound, 1e-9)
    wide = random_mlp(Activation.GELU, False, torch.Generator().manual_seed(0))
    x = noise(1, 4, 5)
    slope = m.induction.mlp_lipschitz(wide, x, torch.full((4,), 2.0, dtype=F64))
    for seed in range(20):
        near = x + 1.9 * torch.nn.functional.normalize(noise(seed, 4, 5))
        for row, bound in zip(near, slope, strict=True):
            J = torch.autograd.functional.jacobian(wide, row)
            check(torch.linalg.matrix_norm(J, 2), bound, 1e-9)
    case = random_case(3)
    after = noise(2, 8, 5)
    output = m.additive.additive_output(case.view, case.latents)
    whole = m.induction.consistency_defect(case.x_hat, after, output)
    check((after - case.x_hat - output).norm(dim=1), whole)
    steps, shift = noise(4, 9, 5), 30 * noise(5, 5)
    after = case.x_hat + case.activations @ steps + shift
    check(
        (after - case.x_hat - output).norm(dim=1),
        m.induction.separable_defect(case.view, case.latents, steps, shift),
    )
    still = -output + case.mlp.b_out + case.mlp.activation(case.view.baseline) @ case.mlp.W_out
    shift = case.mlp.b_out + case.mlp.activation(case.view.baseline) @ case.mlp.W_out
    check(
        still.norm(dim=1),
        m.induction.separable_defect(case.view, case.latents, 0 * steps, shift),
    )


def rounded(m: SimpleNamespace) -> None:
    """1e16 + 1 - 1e16 is 0 in floats: the slack must hold the missing 1."""
    x, W = (
        torch.tensor([[1e8, 1.0, -1e8]], dtype=F64),
        torch.tensor([[1e8], [1.0], [1e8]], dtype=F64),
    )
    lost = (x @ W - 1).abs()
    check(lost, m.slack.product_slack(x, W))
    offset = torch.tensor([-1e16], dtype=F64)
    check(torch.ones(1, 1, dtype=F64), m.slack.product_slack(x[:, :2], W[:2], offset))
    assert m.slack.gamma(10) >= 10 * 2.0**-53
    shifted = m.slack.activation_slack(Activation.GELU, x * 0 + PEAK[Activation.GELU], x * 0 + 1e-3)
    rise = act("gelu", torch.tensor(PEAK[Activation.GELU] + 1e-3, dtype=F64))
    rise = rise - act("gelu", torch.tensor(PEAK[Activation.GELU], dtype=F64))
    check(rise.expand(1, 3), shifted)
