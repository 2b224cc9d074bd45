"""More parts of the verifier: boxes, what is drawn for balls, figures, checks of the process."""

from __future__ import annotations

import ctypes
import math
import platform
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import exact_checker
import flint
import hostile
import hostile_layers
import numpy as np
import pytest
import statistical
from certificates import NOTHING
from hostile_text import model_end

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.contexts import write_contexts
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import (
    balls_boxes,
    balls_products,
    boxes,
    checks,
    pairs,
    points,
    products,
)
from crossproof.proof.certificate.verifier.arithmetic import UNIT, Arithmetic, Rounded
from crossproof.proof.certificate.verifier.enclosures import Boxes
from crossproof.proof.certificate.verifier.verdict import judge, verify, verify_network
from crossproof.proof.certificate.writer import Draft, as_certificate, publish

KINDS = (*hostile.KINDS, *hostile_layers.KINDS)


def dense(kind: str, seed: int = 1) -> Draft:
    g = np.random.default_rng([seed, 11])
    if kind in hostile.KINDS:
        return hostile.MAKERS[kind](g, ("dense",))
    return hostile_layers.attention(g, kind, ("dense",))


@pytest.mark.parametrize("kind", KINDS)
def test_balls_are_asked_when_they_are_asked_for_and_are_precise(kind: str) -> None:
    certificate = as_certificate(dense(kind))
    before = judge(certificate)
    assert before.balls == 0
    if kind in ("attention", "attention-latents"):
        assert before.ball_groups == 0
    flint.ctx.prec = 30
    judge(certificate, arb=True)
    assert flint.ctx.prec == 128


def test_products_have_as_many_atoms_as_they_like() -> None:
    """Fewer than elements, and one that belongs to no neuron's block."""
    draft = dense("products", 3)
    assert draft.dictionary is not None
    few = replace(
        draft,
        dictionary={"atoms": draft.dictionary["atoms"][:1]},
        proof={**draft.proof, "blocks": np.ones(1, np.int64),
               "owners": np.zeros_like(draft.proof["owners"])},
    )  # fmt: skip
    certificate = as_certificate(few)
    verdict = judge(certificate, arb=True)
    assert verdict.balls == verdict.ball_groups
    problem = products.read(certificate, Limits())
    margins = balls_products.PairsInBalls(problem).margins(0, 1)
    assert len(margins) == len(draft.domain["table"])


def test_what_products_ask_for_is_known() -> None:
    """By the atoms of each neuron's block; options of users rest on it."""
    sizes = {"D": 3, "N": 5, "p": 7, "H": 4, "V": 7}
    certificate = replace(as_certificate(dense("products")), sizes=sizes)
    owners, blocks = np.array([0, 1, 1, 3, 0]), np.array([1, 1, 2, 3])
    assert certificate.memory == 312
    assert products._needs(certificate, owners, blocks) == (28_824, 41_421)


def test_pairs_read_their_effects_at_sums_and_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = pairs.read(as_certificate(dense("pairs", 2)), Limits())
    p, read = len(problem.left), list[Any]()

    def noted(*of: Any) -> Rounded:
        read.append(of[-1])
        return count.exact(np.zeros((1, 1)))

    count = Arithmetic()
    monkeypatch.setattr(pairs, "table_margins", noted)
    tables = pairs.build_tables(Arithmetic(), problem)
    blocks = pairs.build_blocks(Arithmetic(), problem)
    for a in range(p):
        pairs.margins(Arithmetic(), problem, tables, blocks, a)
        one, b, label, difference = read[-1]
        assert (one, b.tolist()) == (a, [*range(p)])
        assert label.tolist() == [(a + other) % p for other in range(p)]
        assert difference.tolist() == [(a - other) % p for other in range(p)]


@pytest.mark.parametrize("kind", ["points", "pairs"])
def test_only_margins_above_zero_are_right(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = as_certificate(dense(kind))
    count = judge(certificate).subject.inputs or 0
    classes = certificate.sizes["V"]
    for worst, right in ((0.0, 0), (-0.5, 0), (1e-300, 1)):

        def proved(*_: Any, worst: float = worst) -> Any:
            rows = [np.arange(count)] if kind == "points" else range(classes)
            for row in rows:
                size = count if kind == "points" else classes
                yield row, np.full(size, worst), np.zeros(size)

        monkeypatch.setattr({"points": points, "pairs": pairs}[kind], "evaluate", proved)
        verdict = judge(certificate)
        assert (verdict.right, verdict.accuracy) == (right * count, right)
        assert verdict.cross_entropy == UNIT


def test_the_largest_of_tokens_is_the_label() -> None:
    verdict = judge(as_certificate(dense("sequences")))
    (V, C), count = (verdict.subject.tokens, verdict.subject.length), verdict.subject.inputs
    assert V is not None
    assert C is not None
    shares = [(y**C - (y - 1) ** C) / V**C for y in range(1, V + 1)]
    assert (count, verdict.majority) == (V**C, shares[-1])
    entropy = -sum(share * math.log(share) for share in shares)
    assert verdict.label_entropy == pytest.approx(entropy, rel=1e-12)


def test_a_path_that_skips_some_inputs_is_counted_whole() -> None:
    draft = dense("pairs")
    counts = []
    for entries in (0, 1):
        skip = np.zeros_like(draft.network["skip"])
        skip[:, 0] = entries
        verdict = judge(as_certificate(replace(draft, network={**draft.network, "skip": skip})))
        counts.append((verdict.brute_force or 0, verdict.operations))
    p, D = len(draft.domain["left"]), len(draft.network["skip"])
    assert counts[1][0] - counts[0][0] == 4 * p * D * p + 2 * p**3
    assert counts[1][1] > counts[0][1]


def test_a_claim_of_just_what_is_reached_holds() -> None:
    certificate = as_certificate(dense("points"))
    reached = judge(certificate)
    assert reached.cross_entropy is not None
    claim = {"accuracy": reached.accuracy, "cross_entropy": reached.cross_entropy}
    assert judge(replace(certificate, claim=claim)).holds
    less = math.nextafter(reached.cross_entropy, 0)
    assert not judge(replace(certificate, claim={**claim, "cross_entropy": less})).holds


def test_ranges_of_integers_have_two_ends() -> None:
    checks.within("it", np.array([1, 5]), 1, 5)
    for wrong in ([1, 6], [0, 5]):
        with pytest.raises(CrossproofError, match="between 1 and 5"):
            checks.within("it", np.array(wrong), 1, 5)


MODES = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x800000, 0x400000, 0xC00000)}
"""fesetround's down, up and towards zero."""


@pytest.mark.skipif(platform.machine() not in MODES, reason="rounding modes of another processor")
@pytest.mark.skipif(platform.system() != "Linux", reason="the C library has another name")
def test_a_process_that_rounds_in_a_direction_is_refused() -> None:
    library = ctypes.CDLL("libm.so.6")
    for mode in MODES[platform.machine()]:
        library.fesetround(mode)
        try:
            checks.check_arithmetic()
            refused = False
        except CrossproofError as error:
            refused = "does not round to nearest" in str(error)
        finally:
            library.fesetround(0)
        assert refused


def test_products_that_flush_small_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_arithmetic()
    monkeypatch.setattr(np, "eye", lambda size: np.zeros((size, size)))
    with pytest.raises(CrossproofError, match="flushes small numbers"):
        checks.check_arithmetic()


def test_sides_without_a_middle_are_not_halved() -> None:
    one = np.array([1.0, 0.0])
    for low in (1.0, 1.0 + 2 * UNIT):  # the middle is rounded down, and up
        ends = np.array([low, 0.0]), np.array([low + 2 * UNIT, 1.0])
        with pytest.raises(CrossproofError, match="cannot be halved"):
            list(boxes._halves(*ends, 0, 0))
        assert len(list(boxes._halves(*ends, 1, 0))) == 2
    with pytest.raises(CrossproofError, match="cannot be halved"):
        list(boxes._halves(one, one, 0, 0))


def test_a_margin_whose_lower_bound_is_zero_is_no_margin() -> None:
    prover = boxes.Prover.__new__(boxes.Prover)
    prover.arithmetic = Arithmetic()
    ends = np.ones(2), np.zeros(2)
    low = Rounded(np.zeros((1, 2)), *ends).low
    for more, proved in ((0.0, False), (1e-20, True)):
        assert prover._positive(Rounded(more - low, *ends), 0).tolist() == [proved]


def test_what_is_proved_by_each_bound_adds_up() -> None:
    draft = hostile.boxes(np.random.default_rng([4, 11]), ("dense",), more=3)
    problem = boxes.read(as_certificate(draft), Limits())
    whole, count = boxes.leaves(problem), Arithmetic()
    made = boxes.Prover(count, problem)
    by_bound, proved = dict.fromkeys(boxes.BOUNDS, 0.0), list[int]()
    right = [0.0] * len(draft.network["b_out"])
    for leaf in range(len(whole.sets)):
        one = whole[np.array([leaf])]
        label, constant = made.labels(one.sets, one.low, one.high)
        if not len(constant):
            continue
        right[label[0]] += float(one.mass[0])
        code = int(one.code[0])
        if code and boxes._holds(made, one, int(label[0]), boxes.BOUNDS[code - 1])[0]:
            by_bound[boxes.BOUNDS[code - 1]] += float(one.mass[0])
            proved.append(leaf)
    found = boxes.evaluate(Arithmetic(), problem)
    assert found.by_bound == pytest.approx(by_bound, rel=1e-12)
    assert found.leaves.tolist() == proved
    assert found.accuracy == pytest.approx(sum(by_bound.values()), rel=1e-12)
    assert 1 - (sum(right) - max(right)) < found.majority < 1.0000000011 - (sum(right) - max(right))
    assert sum(by_bound.values()) < 1 - found.accuracy / 100


def test_any_label_may_be_the_likeliest_where_none_is_certain() -> None:
    draft = dense("boxes")
    draft.domain["readout"][:] = 0.0
    assert judge(as_certificate(draft)).majority == 1


def test_a_label_that_changes_in_a_box_is_not_confirmed() -> None:
    draft = dense("boxes")
    problem = boxes.read(as_certificate(draft), Limits())
    box, leaves = balls_boxes._Box(problem), boxes.leaves(problem)
    box.enter(0, leaves.low[0], leaves.high[0])
    middle = [float(end.mid()) for end in box.low + box.high]
    scores = np.zeros_like(draft.domain["readout"])
    scores[:, 0] = 1.0
    box.problem = replace(problem, domain=replace(problem.domain, readout=scores))
    assert box.label() == 0
    scores[box.active[0], 0] = -sum(middle[1:]) / middle[0] if len(box.active) > 1 else 0.0
    with pytest.raises(CrossproofError, match="label is constant"):
        box.label()


def of_one(true: float, own: float, bias: float = -1.0, more: int = 0) -> boxes.BoxesProblem:
    """One feature between 0 and 1 and one neuron; one latent, which is it, and more that are 0."""
    one, two, zero = np.ones((1, 1)), np.array([[1.0, -1.0]]), np.zeros(1)
    network = {"W_in": one, "b_in": zero + bias, "W_out": two, "b_out": 0 * two[0], "skip": 0 * two}
    domain = {"atoms": true * one, "bias": zero, "low": zero, "high": zero + 1,
              "active_sets": np.zeros((1, 1), np.int64), "readout": two}  # fmt: skip
    proof = {"latent_index": np.arange(1 + more)[None], "latent_slopes": np.eye(1, 1 + more)[None],
             "latent_offset": np.zeros((1, 1 + more)), "tree": np.array([2])}  # fmt: skip
    dictionary = {"atoms": np.full((1 + more, 1), own), "bias": zero}
    draft = Draft("boxes", network, domain, proof, dictionary)
    return boxes.read(as_certificate(draft), Limits())


def whole_box(prover: boxes.Prover, problem: boxes.BoxesProblem, label: int = 0) -> Boxes:
    one = boxes.leaves(problem)[np.array([0])]
    active = problem.domain.active_sets[one.sets]
    return Boxes(one.sets, active, one.low, one.high, label)


@pytest.mark.parametrize(("true", "own", "room"), [(1.0, 0.5, (0, 0.5)), (0.5, 1.0, (-0.5, 0))])
def test_a_neuron_that_may_be_on_by_rounding_is_not_taken_for_dead(
    true: float, own: float, room: tuple[float, float]
) -> None:
    """Its largest pre-activation is 0 as computed, the network's or the dictionary's."""
    problem = of_one(true, own)
    prover = boxes.Prover(Arithmetic(), problem)
    box, zero = whole_box(prover, problem), np.zeros((1, 1))
    ends = prover.additive._neuron_error(box, np.zeros((1, 1), np.int64), zero, zero + 1)
    for found, expected in zip(ends, room, strict=True):
        assert found.value.item() == pytest.approx(expected, abs=1e-12)


def test_a_hull_that_is_not_on_one_side_of_zero_is_charged() -> None:
    """Three latents between -1 and 1: all but one of them may hide in what is not additive."""
    problem = of_one(1.0, 1.0, 0.5, more=2)
    prover = boxes.Prover(Arithmetic(), problem)
    one = np.ones((1, 3))
    ends = prover.additive._neuron_error(whole_box(prover, problem), np.arange(3)[None], -one, one)
    assert [end.value.item() for end in ends] == pytest.approx([-2, 2])


def test_slopes_of_all_features_are_within_their_size_and_error() -> None:
    draft = dense("boxes")
    slopes = draft.proof["latent_slopes"]
    slopes[:] *= 10.0 ** (6 * np.arange(slopes.shape[1]))[:, None]
    assert slopes.shape[1] > 1
    problem = boxes.read(as_certificate(draft), Limits())
    for _, slopes in (getattr(boxes.Prover(Arithmetic(), problem).additive, name)
                      for name in ("residual", "skip_residual")):  # fmt: skip
        largest = np.abs(slopes.value).max(axis=(0, 1))
        assert (slopes.size >= largest).all()
        assert (slopes.error >= 2 * UNIT * largest).all()


def test_what_nodes_off_their_kinks_may_cost_is_taken_off() -> None:
    problem = boxes.read(as_certificate(dense("boxes")), Limits())
    prover = boxes.Prover(Arithmetic(), problem)
    box, additive = whole_box(prover, problem), prover.additive
    before = additive.margins(box).value
    additive.curves.charge = Arithmetic().exact(np.ones_like(additive.curves.charge.value))
    W_out = problem.weights.W_out
    cost = np.abs(W_out[:, :1] - W_out).sum(axis=0) * problem.latents.index.shape[1]
    np.testing.assert_allclose(before - additive.margins(box).value, cost[None], atol=1e-9)


def test_margins_of_points_are_below_the_exact_ones_to_the_last_digit() -> None:
    for seed in range(4):
        draft = hostile.points(np.random.default_rng(seed), ("dense",))
        problem, exact = points.read(as_certificate(draft), Limits()), hostile.exact(draft)
        engine = points.PointsEngine(Arithmetic(), problem)
        for point, (label, row) in enumerate(zip(problem.labels, exact.margins, strict=True)):
            low = engine.margins(np.array([point]), int(label))[0]
            for c, margin in zip(exact_checker.others(int(label), len(low)), row, strict=True):
                assert Decimal(low[c]) < margin.decimal


def test_activations_of_latents_are_taken_a_chunk_at_a_time() -> None:
    problem = boxes.read(as_certificate(dense("boxes")), Limits())
    curves = boxes.Prover(Arithmetic(), problem).additive.curves
    latent = np.arange(9000) % len(problem.latents.decoder)
    value = np.linspace(-1, 1, 9000)
    whole = curves.at(latent, value).value
    assert whole.shape == (9000, len(problem.weights.b_out))
    some = np.array([0, 4095, 4096, 4097, 8191, 8192, 8999])
    np.testing.assert_allclose(curves.at(latent[some], value[some]).value, whole[some], rtol=1e-12)


def test_every_kind_is_verified_as_what_it_is(tmp_path: Path) -> None:
    write_contexts(tmp_path / "contexts", model_end(0, 1))
    assert verify(tmp_path / "contexts").kind == "contexts"
    made = statistical.written(tmp_path / "statistical", documents=5)
    assert verify(made).kind == "statistical"
    for folder in (tmp_path / "contexts", made):
        with pytest.raises(CrossproofError, match="not for ball arithmetic"):
            verify(folder, arb=True)
    publish(dense("points"), tmp_path / "points", {}, NOTHING)
    assert verify_network(tmp_path / "points").balls == 0
    assert verify_network(tmp_path / "points", arb=True).balls > 0
