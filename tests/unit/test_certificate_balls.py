"""Ball arithmetic: what it derives are the exact bounds, and it objects to what is not so."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import exact_checker
import hostile
import numpy as np
import pytest

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import balls, balls_boxes, boxes, pairs, points
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import as_certificate

SEEDS = range(12)


def drawn(kind: str, seed: int) -> Any:
    return hostile.MAKERS[kind](np.random.default_rng(seed), ("dense",))


def near(found: Any, expected: exact_checker.Margin) -> None:
    """The ball holds the exact number, and is narrow."""
    exact = float(expected.decimal)
    assert abs(float(found.mid()) - exact) <= 1e-13 * (1 + abs(exact))
    assert float(found.rad()) <= 1e-25 * (1 + abs(exact))


@pytest.mark.parametrize("kind", ["points", "pairs"])
def test_balls_hold_the_exact_margins(kind: str) -> None:
    balls.ready()
    for seed in SEEDS:
        draft = drawn(kind, seed)
        exact = hostile.exact(draft)
        certificate = as_certificate(draft)
        if kind == "points":
            of_point = balls.point_margins(points.read(certificate, Limits()))
            found = [of_point(t) for t in range(len(exact.margins))]
            labels = draft.domain["labels"].tolist()
        else:
            of_pair, p = (
                balls.pair_margins(pairs.read(certificate, Limits())),
                len(draft.domain["left"]),
            )
            found = [of_pair(*divmod(t, p)) for t in range(p * p)]
            labels = [sum(divmod(t, p)) % p for t in range(p * p)]
        for row, theirs, label in zip(found, exact.margins, labels, strict=True):
            ours = [row[c] for c in exact_checker.others(label, len(row))]
            for one, other in zip(ours, theirs, strict=True):
                near(one, other)


def test_balls_hold_the_exact_bounds_of_boxes() -> None:
    balls.ready()
    for seed in range(30):
        draft = drawn("boxes", seed)
        problem, tensors = boxes.read(as_certificate(draft), Limits()), hostile.tensors(draft)
        net = exact_checker.Net(
            *(tensors[f"network.{k}"] for k in ("W_in", "b_in", "W_out", "b_out", "skip"))
        )
        leaves, box = boxes.leaves(problem), balls_boxes._Box(problem)
        for leaf in range(min(len(leaves.sets), 4)):
            number, low, high = int(leaves.sets[leaf]), leaves.low[leaf], leaves.high[leaf]
            box.enter(number, low, high)
            exact = exact_checker.BoxChecker(
                net, tensors, number, list(zip(low.tolist(), high.tolist(), strict=True))
            )
            for label in range(len(net.b_out)):
                for name in boxes.BOUNDS:
                    ours = getattr(box, name)(label)
                    for c in exact_checker.others(label, len(net.b_out)):
                        margin = exact_checker.Margin(getattr(exact, name)(label, c))
                        near(ours[c], margin)
            share = exact_checker._share
            domain = problem.domain
            whole = [(float(domain.low[h]), float(domain.high[h])) for h in box.active]
            part = zip(zip(low.tolist(), high.tolist(), strict=True), whole, strict=True)
            mass = Fraction(1, len(domain.active_sets))
            for pair in part:
                mass *= share(pair)
            assert abs(float(box.mass().mid()) - float(mass)) <= 1e-15


@pytest.mark.parametrize("kind", ["points", "pairs"])
def test_balls_object_to_margins_and_entropies_that_are_not_so(kind: str) -> None:
    objections = 0
    for seed in SEEDS:
        certificate = as_certificate(drawn(kind, seed))
        reader, check = {
            "points": (points.read, balls.check_points),
            "pairs": (pairs.read, balls.check_pairs),
        }[kind]
        problem = reader(certificate, Limits())
        shape = (len(problem.labels),) if kind == "points" else (len(problem.left),) * 2
        nothing, everything = np.full(shape, -1.0), np.ones(shape)
        assert check(problem, nothing, np.full(shape, 1e5)) == nothing.size
        assert check(problem, nothing, np.full(shape, np.nan)) == nothing.size
        with pytest.raises(CrossproofError, match="does not confirm the cross-entropy"):
            check(problem, nothing, np.zeros(shape))
        if judge(certificate).right < nothing.size:
            objections += 1
            with pytest.raises(CrossproofError, match=r"does not confirm p.* against class"):
                check(problem, everything, np.full(shape, 1e5))
    assert objections > 1


def test_balls_object_to_entropies_just_below_their_own() -> None:
    certificate = as_certificate(drawn("points", 3))
    problem = points.read(certificate, Limits())
    (rows,) = [hostile.exact(drawn("points", 3)).margins]
    exact = np.array([float(exact_checker.cross_entropy([row])) for row in rows])
    worst = np.full(len(exact), -1.0)
    assert balls.check_points(problem, worst, exact * (1 + 1e-12)) == len(exact)
    with pytest.raises(CrossproofError, match="does not confirm the cross-entropy"):
        balls.check_points(problem, worst, exact * (1 - 1e-12))


def test_balls_object_to_leaves_and_masses_that_are_not_so(monkeypatch: pytest.MonkeyPatch) -> None:
    objections = 0
    for seed in SEEDS:
        problem = boxes.read(as_certificate(drawn("boxes", seed)), Limits())
        proved = boxes.evaluate(boxes.Arithmetic(), problem).leaves
        assert balls_boxes.check_boxes(problem, proved) == len(proved)
        leaves = boxes.leaves(problem)
        claimed = np.flatnonzero(leaves.code > 0)
        if len(proved) < len(claimed):
            objections += 1
            with pytest.raises(CrossproofError, match="does not confirm"):
                balls_boxes.check_boxes(problem, claimed)
        if len(proved):
            with monkeypatch.context() as patch:
                more = replace(leaves, mass=leaves.mass * (1 + 1e-12))
                patch.setattr(boxes, "leaves", lambda _, more=more: more)
                with pytest.raises(CrossproofError, match="does not confirm the mass"):
                    balls_boxes.check_boxes(problem, proved)
    assert objections > 1


def test_large_certificates_are_drawn_from_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    assert balls.sample(7, 10**12).tolist() == list(range(7))
    assert balls.sample(64, 10**12).tolist() == list(range(64))
    assert len(balls.sample(1000, 20_000)) == 1000
    assert len(balls.sample(1001, 20_000)) == 1000
    one, other = (balls.sample(10_000, 10**12) for _ in range(2))
    assert len(np.unique(one)) == len(np.unique(other)) == 64
    assert one.tolist() != other.tolist()
    assert (np.diff(one) > 0).all()
    monkeypatch.setattr(balls, "SAMPLE", 3)
    monkeypatch.setattr(balls, "BUDGET", 0)
    verdict = judge(as_certificate(drawn("pairs", 0)), arb=True)
    assert (verdict.balls, verdict.ball_groups) == (3, verdict.subject.inputs)
    assert f"derived again, of {verdict.ball_groups}" in repr(verdict)


def test_without_python_flint_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balls, "flint", None)
    with pytest.raises(CrossproofError, match="pip install python-flint"):
        judge(as_certificate(drawn("points", 0)), arb=True)
