"""Parts of the verifier's bounds, each against the same in rational numbers or by brute force.

Whole margins take the better of two bounds and the least of many terms, so that a part can be wrong
without a margin that is: here nothing hides behind anything else.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import exact_checker
import hostile
import numpy as np
import pytest

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import (
    balls,
    balls_boxes,
    boxes,
    enclosures,
    pairs,
    points,
)
from crossproof.proof.certificate.verifier.additive import Additive
from crossproof.proof.certificate.verifier.arithmetic import TINY, Arithmetic, Rounded
from crossproof.proof.certificate.verifier.checks import NetworkWeights
from crossproof.proof.certificate.verifier.curves import Curves, Latents
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import as_certificate

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def dyadic(g: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of 1/4, a few of them zero: sums of them are exact."""
    return np.round(4 * g.standard_normal(shape)) / 4


def rooms(base: np.ndarray, p: np.ndarray, z: np.ndarray) -> list[list[list[float]]]:
    """(activation, less, more) of every point and neuron, dominant and additive, exactly."""
    made = []
    for point in range(len(p)):
        for n in range(p.shape[2]):
            ordered = sorted(map(Fraction, p[point, :, n]), key=lambda part: -abs(part))
            neuron = exact_checker._neuron(Fraction(base[n]), ordered, Fraction(z[point, n]))
            made.append([list(map(float, model)) for model in neuron])
    return made


@pytest.mark.parametrize("K", [1, 2, 3, 4])
def test_neurons_have_exactly_the_room_of_the_theorems(K: int) -> None:
    g = np.random.default_rng(K)
    base, p, off = dyadic(g, 9) + 1 / 16, dyadic(g, 60, K, 9), dyadic(g, 60, 9)  # no sum is 0
    z = p.sum(axis=1) + base + np.where(g.random(off.shape) < 0.5, off, 0)
    count = Arithmetic()
    engine = points.PointsEngine.__new__(points.PointsEngine)
    engine.arithmetic, engine.base = count, count.exact(base)
    expected = np.array(rooms(base, p, z)).reshape(60, 9, 2, 3)
    for model, bound in enumerate((engine.dominant, engine.additive)):
        for part, found in enumerate(bound(count.exact(p), count.exact(z))):
            np.testing.assert_allclose(found.value, expected[:, :, model, part], **CLOSE)
            assert (found.error < 1e-12).all()
    balls.ready()
    base, z = base - 1 / 16, z - 1 / 16  # sums that are 0: balls of such numbers are exact
    expected = np.array(rooms(base, p, z)).reshape(60, 9, 2, 3)
    for point, n in np.ndindex(60, 9):
        parts = balls.vector(p[point, :, n])
        one = balls._neuron(balls.ball(base[n]), parts, balls.ball(z[point, n]))
        assert [[float(x) for x in model] for model in one] == expected[point, n].tolist()


def test_what_may_be_above_zero_by_rounding_is_not_taken_for_off() -> None:
    """Pre-activations and ends of hulls that are 0 as computed: what they would spare stays."""
    count = Arithmetic()
    engine = points.PointsEngine.__new__(points.PointsEngine)
    engine.arithmetic = count
    for base, p, z, rooms in (
        (-1.0, [1.0, -0.5], -0.5, (0.5, 0.0)),  # the hull ends at 0
        (1.0, [-1.0, 0.5], 0.5, (0.5, 0.0)),  # it begins there
        (-1.0, [0.0, 0.0], 0.0, (1.0, 1.0)),  # z is 0
        (-1.0, [1.0, 0.0], -1.0, (1.0, 1.0)),  # what is reconstructed is
    ):
        engine.base = count.exact(np.array([base]))
        parts, true = count.exact(np.array([p])[..., None]), count.exact(np.array([[z]]))
        _, less, more = engine.additive(parts, true)
        assert (less.value.item(), more.value.item()) == rooms
    for base, p, z in (
        (-1.0, [0.5, 0.0], 0.0),
        (-1.0, [1.0, -0.5], -0.5),
        (-2.0, [1.0, 1.0], -1.0),
    ):
        engine.base = count.exact(np.array([base]))
        parts, true = count.exact(np.array([p])[..., None]), count.exact(np.array([[z]]))
        assert engine.dominant(parts, true)[1].value.item() > 0


def curves_of(
    g: np.random.Generator, N: int, H: int = 4, V: int = 3
) -> tuple[Curves, np.ndarray, np.ndarray]:
    weights = NetworkWeights(*(g.standard_normal(s) for s in ((2, N), (N,), (N, V), (V,), (2, V))))
    latents = Latents(
        g.standard_normal((H, 2)), g.standard_normal(2), np.zeros(0, np.int64), *[np.zeros(0)] * 2
    )
    low = -g.random(H)
    high = low + 1 + 3 * g.random(H)
    return Curves(Arithmetic(), weights, latents, (low, high)), low, high


@pytest.mark.parametrize("N", [1, 2, 3, 7, 8, 16, 19])
def test_the_least_of_a_curve_is_at_an_end_or_at_a_kink(N: int) -> None:
    g = np.random.default_rng(N)
    curves, bottom, top = curves_of(g, N)
    assert (np.diff(curves.nodes, axis=1) >= 0).all()
    latent = g.integers(0, 4, (25, 2))
    ends = np.sort(g.random((2, 25, 2)), axis=0)
    ends = bottom[latent] + ends * (top - bottom)[latent]
    ends[:, :3] = curves.nodes[latent[:3], g.integers(0, N, (3, 2))]  # ends that are nodes
    ends[1, :2] = top[latent[:2]]
    for label in range(3):
        found = curves.smallest(latent, ends[0], ends[1], label)
        for box in range(25):
            least = np.zeros(3)
            for h, low, high in zip(latent[box], ends[0, box], ends[1, box], strict=True):
                between = curves.nodes[h][(curves.nodes[h] > low) & (curves.nodes[h] < high)]
                at = np.array([low, high, *between])
                values = curves.at(np.full(len(at), h), at).value
                least += (values[:, label : label + 1] - values).min(axis=0)
            np.testing.assert_allclose(found.value[box], least, **CLOSE)
    fine = np.linspace(ends[0], ends[1], 400)
    for box, side in np.ndindex(25, 2):
        values = curves.at(np.full(400, latent[box, side]), fine[:, box, side]).value
        one = curves.smallest(latent[box : box + 1, side : side + 1],
                              *(ends[:, box : box + 1, side : side + 1]), 0)  # fmt: skip
        assert (one.value[0] <= (values[:, :1] - values).min(axis=0) + 1e-9).all()


def test_only_neurons_that_switch_are_charged_for_their_nodes() -> None:
    """Pre-activations at the two ends: on, off, switching up and down, 0 at one end or at both."""
    both = [[0.25, 0.5], [-0.5, -0.25], [-0.5, 0.5], [0.5, -0.5], [0, 0]]
    at_ends = np.array([*both, [0, 0.5], [0.5, 0], [0, -0.5], [-0.5, 0]])
    g, base = (at_ends[:, 1] - at_ends[:, 0]) / 3, (2 * at_ends[:, 0] + at_ends[:, 1]) / 3
    weights = NetworkWeights(g[None], base, np.eye(9), np.zeros(9), np.zeros((1, 9)))
    latents = Latents(np.ones((1, 1)), np.zeros(1), np.zeros(0, np.int64), *[np.zeros(0)] * 2)
    curves = Curves(Arithmetic(), weights, latents, (np.array([-1.0]), np.array([2.0])))
    charged = curves.charge.value[0] > 0
    assert charged.tolist() == [False] * 2 + [True] * 7
    assert (curves.charge.value < 1e-14).all()
    distance = np.arange(18.0).reshape(9, 2)
    curves.charge = Rounded(np.arange(9.0)[None], np.full(9, 9.0), np.zeros(9))
    missed = curves.missed(np.zeros((1, 2), np.int64), Arithmetic().exact(distance))
    np.testing.assert_allclose(missed.value, 2 * np.arange(9.0) @ distance[None], **CLOSE)


def test_lines_above_and_below_a_neuron_hold_at_its_ends() -> None:
    ends = np.array(
        [[-1, 2], [-2, 1], [-1, 1], [-3, -1], [1, 3], [0, 0], [0, 2], [-2, 0], [-4, 0.5]]
    )
    one = enclosures.Enclosures.__new__(enclosures.Enclosures)
    one.arithmetic = count = Arithmetic()
    under, over, lift = one._relaxation(*(count.exact(end[None] * 1.0) for end in ends.T))
    assert under.value[0].tolist() == [1, 0, 1, 0, 1, 1, 1, 0, 0]
    slopes = [2 / 3, 1 / 3, 1 / 2, 0, 1, 1 / 2, 1, 0, 1 / 9]  # of 0 to 0: both widened alike
    np.testing.assert_allclose(over.value[0], slopes, rtol=1e-12, atol=1e-280)
    raised = [2 / 3, 2 / 3, 1 / 2, 0, 0, 0, 0, 0, 4 / 9]
    np.testing.assert_allclose(lift.value[0], raised, rtol=2e-9, atol=1e-12)
    assert (lift.value >= TINY).all()
    near = np.array(
        [[-8.144886973076099e-16, 0.3463964459891802], [-4.2743981616939043e-16, 7.415575271957043]]
    )
    for low, high in (*ends.tolist(), *near.tolist()):  # chords that rounding tilts either way
        _, over, lift = one._relaxation(*(count.exact(np.array([[end]])) for end in (low, high)))
        for end in (low, high):
            chord = Fraction(over.value.item()) * Fraction(end) + Fraction(lift.value.item())
            assert chord >= max(end, 0)


def checker(draft: object, problem: boxes.BoxesProblem, leaf: int) -> exact_checker.BoxChecker:
    tensors = hostile.tensors(draft)  # type: ignore[arg-type]
    names = ("W_in", "b_in", "W_out", "b_out", "skip")
    net = exact_checker.Net(*(tensors[f"network.{name}"] for name in names))
    leaves = boxes.leaves(problem)
    box = list(zip(leaves.low[leaf].tolist(), leaves.high[leaf].tolist(), strict=True))
    return exact_checker.BoxChecker(net, tensors, int(leaves.sets[leaf]), box)


@pytest.mark.parametrize("seed", range(40, 60))
def test_neurons_of_boxes_have_exactly_the_room_of_the_theorems(seed: int) -> None:
    """What interactions and the residual may add, neuron by neuron, in float64 and in balls."""
    g = np.random.default_rng(seed)
    draft = hostile.boxes(g, ("dense",))
    if seed % 2:
        draft.domain["bias"][:] = draft.domain["bias"] - 2 * g.random(len(draft.domain["bias"]))
    else:  # the dictionary thinks a neuron off which switches in the first leaf
        pre = checker(draft, boxes.read(as_certificate(draft), Limits()), 0).pre[0]
        direction = draft.network["W_in"][:, 0]
        draft.network["b_in"][0] -= float(sum(pre)) / 2
        draft.dictionary["bias"][:] -= 50 * direction / (direction @ direction)
    problem = boxes.read(as_certificate(draft), Limits())
    prover, leaves = boxes.Prover(Arithmetic(), problem), boxes.leaves(problem)
    additive, box = prover.additive, balls_boxes._Box(problem)
    for leaf in range(min(3, len(leaves.sets))):
        one = leaves[np.array([leaf])]
        active = problem.domain.active_sets[one.sets]
        boxed = enclosures.Boxes(one.sets, active, one.low, one.high, 0)
        low, high = additive.activations(boxed)
        found = additive._neuron_error(boxed, problem.latents.index[one.sets], low, high)
        exact = checker(draft, problem, leaf)
        rooms = np.array([list(map(float, exact.room(n))) for n in range(len(exact.own_base))])
        for ours, theirs in zip(found, rooms.T, strict=True):
            np.testing.assert_allclose(ours.value[0], theirs, rtol=1e-10, atol=1e-10)
        ranges = np.array([list(map(float, ends)) for ends in exact.ranges])
        np.testing.assert_allclose(np.stack([low[0], high[0]], axis=1), ranges, **CLOSE)
        for least, most, (bottom, top) in zip(low[0], high[0], exact.ranges, strict=True):
            assert Fraction(least) < bottom <= top < Fraction(most)
        margins = [exact.additive(0, c) for c in range(1, len(exact.constant))]
        inside = additive.margins(boxed)
        close = {"rtol": 0, "atol": 1e-12 * float(inside.size.max())}
        np.testing.assert_allclose(inside.value[0, 1:], list(map(float, margins)), **close)
        for bound in ("interval", "linear")[: 1 + seed % 2]:  # else either slope is as near
            plainly = getattr(prover.enclosures, bound)(boxed)
            theirs = [float(getattr(exact, bound)(0, c)) for c in range(1, len(exact.constant))]
            close = {"rtol": 0, "atol": 1e-8 * float(plainly.size.max())}
            np.testing.assert_allclose(plainly.value[0, 1:], theirs, **close)
        box.enter(int(one.sets[0]), one.low[0], one.high[0])
        derived = [float(margin.mid()) for margin in box.additive(0)[1:]]
        np.testing.assert_allclose(derived, list(map(float, margins)), rtol=1e-12, atol=1e-12)
        pre = [[float(x.mid()) for x in ends[1:]] for ends in box.neurons()]
        np.testing.assert_allclose(pre, [list(map(float, ends)) for ends in exact.pre], **CLOSE)
        plain = prover.enclosures.pre_activations(boxed)
        for ours, theirs in zip(plain, np.array(pre).T, strict=True):
            np.testing.assert_allclose(ours.value[0], theirs, **CLOSE)


def test_masses_are_the_exact_ones_rounded_down() -> None:
    for seed in range(8):
        draft = hostile.boxes(np.random.default_rng(seed), ("dense",), more=3)
        domain = boxes.read(as_certificate(draft), Limits()).domain
        leaves = boxes.leaves(boxes.read(as_certificate(draft), Limits()))
        for leaf in range(len(leaves.sets)):
            mass = Fraction(1, len(domain.active_sets))
            active = domain.active_sets[leaves.sets[leaf]]
            for at, h in enumerate(active):
                ends = leaves.low[leaf, at], leaves.high[leaf, at]
                mass *= exact_checker._share((ends, (domain.low[h], domain.high[h])))
            found = Fraction(float(leaves.mass[leaf]))
            less = (1 - found / mass) / (len(active) + 1) * 10**14
            assert 0.9 < less < 1.1


def test_a_margin_of_zero_is_not_confirmed() -> None:
    balls.ready()
    balls.insist([balls.ball(0), balls.ball(1e-60)], 0, "it")
    for margin in (balls.ball(0), balls.flint.arb(1, 1), balls.flint.arb(1, 2)):
        with pytest.raises(CrossproofError, match="does not confirm it against class 1"):
            balls.insist([balls.ball(0), margin], 0, "it")


def test_affine_functions_of_balls_hold_at_the_edges_too() -> None:
    balls.ready()
    expected = {(0, 1): (1, 0), (1, 2): (1, 0), (-1, 0): (0, 0), (-2, -1): (0, 0)}
    for ends, line in expected.items():
        for helps in (False, True):
            found = balls_boxes._relaxed(*map(balls.ball, ends), helps)
            assert tuple(map(float, found)) == line
    for low, high, line in ((-1, 3, (1, 0)), (-3, 1, (0, 0)), (-2, 2, (1, 0))):
        found = balls_boxes._relaxed(balls.ball(low), balls.ball(high), True)
        assert tuple(map(float, found)) == line
    chord = balls_boxes._relaxed(balls.ball(-1), balls.ball(3), False)
    assert tuple(map(float, chord)) == (0.75, 0.75)
    with pytest.raises(CrossproofError, match="cannot tell a neuron's sign"):
        balls_boxes._relaxed(balls.ball(0) - balls.flint.arb(0, 1), balls.ball(1), False)


@pytest.mark.parametrize("p", range(2, 8))
def test_blocks_are_projections_on_their_frequencies(p: int) -> None:
    g = np.random.default_rng(p)
    draft = hostile.pairs(g, ("dense",), more=1)
    N = 5
    shapes = {"W_in": (2, N), "b_in": (N,), "W_out": (N, p), "b_out": (p,), "skip": (2, p)}
    owners = np.arange(N) % (p // 2 + 1)
    tables = {k: g.standard_normal((p, N)) for k in draft.proof if k.startswith("effect")}
    made = replace(
        draft,
        network={name: g.standard_normal(shape) for name, shape in shapes.items()},
        domain={"left": g.standard_normal((p, 2)), "right": g.standard_normal((p, 2))},
        proof=tables | {"owners": owners, "scale": np.zeros(N, np.int64)},
    )
    problem = pairs.read(as_certificate(made), Limits())
    blocks = pairs.build_blocks(Arithmetic(), problem)
    assert blocks.basis is not None
    rest = problem.weights.W_out.copy()
    for at, (neurons, fitted) in enumerate(zip(blocks.slices, blocks.coefficients, strict=True)):
        basis = blocks.basis.value[2 * at : 2 * at + 2]
        rest[neurons] -= fitted.value @ basis
        np.testing.assert_allclose(rest[neurons] @ basis.T, 0, atol=1e-12)
    far = np.linalg.norm(rest[:, :, None] - rest[:, None], axis=0)
    np.testing.assert_allclose(blocks.distance.value, far, **CLOSE)


def test_neurons_that_no_latent_reaches_have_no_kinks_in_balls() -> None:
    draft = hostile.boxes(np.random.default_rng(3), ("dense",))
    draft.network["W_in"][:, 0] = 0.0
    certificate = as_certificate(draft)
    verdict = judge(certificate, arb=True)
    problem = boxes.read(certificate, Limits())
    box, exact = balls_boxes._Box(problem), checker(draft, problem, 0)
    leaves = boxes.leaves(problem)
    box.enter(int(leaves.sets[0]), leaves.low[0], leaves.high[0])
    for c, ours in enumerate(box.additive(0)[1:], 1):
        assert float(ours.mid()) == pytest.approx(float(exact.additive(0, c)), rel=1e-12)
    assert verdict.balls == verdict.ball_groups


def test_inputs_that_differ_by_little_are_counted_apart() -> None:
    drafts = (hostile.points(np.random.default_rng(seed), more=3) for seed in range(9))
    draft = next(made for made in drafts if len(made.domain["inputs"]) > 2)
    draft.domain["inputs"][:] = 0.0
    draft.domain["inputs"][0] = 1e-60
    draft.domain["inputs"][1] = -0.0
    assert judge(as_certificate(draft)).subject.distinct == 2


def test_hulls_that_may_cross_zero_by_rounding_are_charged() -> None:
    count, rows = Arithmetic(), np.zeros(1, bool)
    one = Additive.__new__(Additive)
    one.arithmetic = count
    parts = count.exact(np.array([[[1.0], [2.0], [3.0]]]))
    for bottom, top, charge in ((0, 5, 3), (-5, 0, 3), (-1, 1, 3), (1, 5, 0), (-5, -1, 0)):
        ends = (count.exact(np.array([[float(end)]])) for end in (bottom, top))
        down, up = one._interaction(parts, parts, *ends, rows)
        assert (down.value.item(), up.value.item()) == (-charge, charge)


@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_of_lower_bounds_and_not_of_values(seed: int) -> None:
    g = np.random.default_rng(seed)
    problem = pairs.read(as_certificate(hostile.pairs(g, ("dense",))), Limits())
    shared = pairs.build_tables(Arithmetic(), problem), pairs.build_blocks(Arithmetic(), problem)
    p = len(problem.left)
    for a, worst, _ in pairs.evaluate(Arithmetic(), problem):
        found = pairs.margins(Arithmetic(), problem, *shared, a)
        low, b = found.low, np.arange(p)
        assert (low < found.value).all()
        low[b, (a + b) % p] = np.inf
        assert worst.tolist() == low.min(axis=1).tolist()
    inputs = points.read(as_certificate(hostile.points(g, ("dense",))), Limits())
    engine = points.PointsEngine(Arithmetic(), inputs)
    for rows, worst, _ in points.evaluate(Arithmetic(), inputs):
        low = engine.margins(rows, int(inputs.labels[rows[0]]))
        assert worst.tolist() == low.min(axis=1).tolist()
