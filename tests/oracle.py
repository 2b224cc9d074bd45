"""What the verifier must get right, as one quick function.

`prepare` computes what is exact, once a process; `check` asks the verifier as it is now. What
tools/mutants forks has the first behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any

import exact_checker
import hostile
import numpy as np
import pytest

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import Certificate, Limits
from crossproof.proof.certificate.writer import Draft, as_certificate

VERIFIER = "crossproof.proof.certificate.verifier"


@dataclass
class Prepared:
    """A certificate with the exact figures, as floats that are no less strict."""

    draft: Draft
    certificate: Certificate
    exact: exact_checker.Exact
    dense: bool
    """No number is at an edge: the verifier must reach what is exact."""
    most: list[list[float]]
    """The largest floats that are no larger than the exact margins."""
    entropy: list[float]
    """Of every input."""
    scale: float
    bounds: dict[tuple[int, int, str], list[float]]
    """Of a dense certificate's first leaves, for every label: what each bound is."""
    majority: float
    """Of dense boxes: the most that the likeliest label's mass can be."""


@cache
def prepare(kind: str, dense: int = 6, edges: int = 8) -> tuple[Prepared, ...]:
    """Certificates of a kind: without numbers at an edge, and with."""
    certain = [hostile.MAKERS[kind](np.random.default_rng(s), ("dense",)) for s in range(dense)]
    edgy = [hostile.hostile(kind, seed) for seed in range(edges)]
    with hostile.fast_fractions():
        made = [_prepared(draft, True) for draft in certain]
        return (*made, *(_prepared(draft, False) for draft in edgy))


def _prepared(draft: Draft, dense: bool) -> Prepared:
    exact = hostile.exact(draft)
    entropy = []
    if dense and draft.kind != "boxes":
        entropy = [float(exact_checker.cross_entropy([row])) for row in exact.margins]
    most = [[below(margin.decimal) for margin in row] for row in exact.margins]
    scale = hostile.scale(draft) if dense and draft.kind != "boxes" else 0.0
    certificate = as_certificate(draft)
    bounds, majority = _bounds(draft, certificate) if dense and draft.kind == "boxes" else ({}, 0.0)
    return Prepared(draft, certificate, exact, dense, most, entropy, scale, bounds, majority)


def _bounds(
    draft: Draft, certificate: Certificate
) -> tuple[dict[tuple[int, int, str], list[float]], float]:
    """What the bounds of the first leaves are, and the most that one label's mass can be."""
    boxes, tensors, bounds = part("boxes"), hostile.tensors(draft), {}
    leaves = boxes.leaves(boxes.read(certificate, Limits()))
    names = ("W_in", "b_in", "W_out", "b_out", "skip")
    net = exact_checker.Net(*(tensors[f"network.{name}"] for name in names))
    masses = np.zeros(len(net.b_out))
    for leaf in range(len(leaves.sets)):
        box = list(zip(leaves.low[leaf].tolist(), leaves.high[leaf].tolist(), strict=True))
        checker = exact_checker.BoxChecker(net, tensors, int(leaves.sets[leaf]), box)
        label = checker.label()
        if label is not None:
            masses[label] += leaves.mass[leaf]
        for label in range(len(net.b_out)) if leaf < 3 else ():
            for name in boxes.BOUNDS:
                rest = exact_checker.others(label, len(net.b_out))
                margins = [exact_checker.Margin(getattr(checker, name)(label, c)) for c in rest]
                bounds[leaf, label, name] = [float(margin.decimal) for margin in margins]
    return bounds, min(1 - masses.sum() + masses.max(), 1)


def below(number: Decimal) -> float:
    """The largest float that is no larger."""
    near = float(number)
    return near if Decimal(near) <= number else math.nextafter(near, -math.inf)


def check(prepared: Sequence[Prepared]) -> None:
    """Fails where the verifier certifies more than is exact, or needlessly less."""
    with np.errstate(all="ignore"):
        for case in prepared:
            _check_verdict(case)
            if case.draft.kind == "boxes":
                _check_leaves(case)
            else:
                _check_lows(case)
        for case in prepared:
            if case.dense:
                _check_balls(case)


def part(name: str) -> Any:
    """A module of the verifier as it is now."""
    return import_module(f"{VERIFIER}.{name}")


def _check_verdict(case: Prepared) -> None:
    verdict, exact = part("verdict").judge(case.certificate), case.exact
    assert Fraction(verdict.accuracy) <= exact.accuracy
    assert verdict.right <= len(exact.proved)
    if not case.dense:
        return
    assert verdict.right == len(exact.proved)
    assert abs(verdict.accuracy - float(exact.accuracy)) <= 1e-12
    classes = len(case.draft.network["b_out"])
    assert verdict.chance == 1 / classes
    if case.draft.kind == "boxes":
        assert case.majority <= verdict.majority <= min(case.majority + 2e-9, 1)
        assert abs(sum(verdict.by_bound.values()) - verdict.accuracy) < 1e-12
        return
    mean = math.fsum(case.entropy) / len(case.entropy)
    assert mean <= verdict.cross_entropy <= mean * (1 + 1e-8) + 1e-11
    assert verdict.majority == (
        1 / classes
        if case.draft.kind in ("pairs", "products")
        else np.bincount(case.draft.domain["labels"]).max() / len(case.entropy)
    )


def lows(draft: Draft, certificate: Certificate) -> list[np.ndarray]:
    """The verifier's bounds on the margins of every input against the other classes."""
    count = part("arithmetic").Arithmetic()
    rows: dict[int, np.ndarray] = {}
    if draft.kind == "points":
        problem = part("points").read(certificate, Limits())
        engine = part("points").PointsEngine(count, problem)
        for label in np.unique(problem.labels).tolist():
            mine = np.flatnonzero(problem.labels == label)
            bounds = np.delete(engine.margins(mine, label), label, axis=1)
            rows |= dict(zip(mine.tolist(), bounds, strict=True))
    else:
        kind = part(draft.kind)
        problem = kind.read(certificate, Limits())
        shared = part("pairs").build_tables(count, problem), kind.build_blocks(count, problem)
        labels = labels_of(draft)
        for a in range(len(labels)):
            low = kind.margins(count, problem, *shared, a).low
            rows |= {
                a * len(labels) + b: np.delete(low[b], labels[a, b]) for b in range(len(labels))
            }
    return [rows[row] for row in range(len(rows))]


def labels_of(draft: Draft) -> np.ndarray:
    """Of every pair [p, p]."""
    number = np.arange(len(draft.domain["left"]))
    table: np.ndarray = draft.domain.get("table", np.add.outer(number, number) % len(number))
    return table


def _check_lows(case: Prepared) -> None:
    for ours, theirs in zip(lows(case.draft, case.certificate), case.most, strict=True):
        for low, most in zip(ours.tolist(), theirs, strict=True):
            assert low <= most
            if case.dense:
                assert low >= most - 1e-12 * case.scale


def _check_leaves(case: Prepared) -> None:
    boxes = part("boxes")
    problem = boxes.read(case.certificate, Limits())
    proved = boxes.evaluate(boxes.Arithmetic(), problem).leaves.tolist()
    assert set(proved) <= set(case.exact.proved)
    if case.dense:
        assert proved == case.exact.proved
        assert 1 - 1e-11 < float(boxes.leaves(problem).mass.sum()) < 1
    prover, leaves = boxes.Prover(boxes.Arithmetic(), problem), boxes.leaves(problem)
    for (leaf, label, name), exact in case.bounds.items():
        one = leaves[np.array([leaf])]
        active = problem.domain.active_sets[one.sets]
        box = part("enclosures").Boxes(one.sets, active, one.low, one.high, label)
        plain = prover.additive.margins if name == "additive" else getattr(prover.enclosures, name)
        low = np.delete(plain(box).low[0], label)
        assert (low <= np.array(exact) + 1e-15 * np.abs(exact)).all()
        loss = 1e-8 if name == "linear" else 1e-11  # what lifts a chord is raised by `UP`
        assert (low >= np.array(exact) - loss * (1 + np.abs(exact))).all()


def _check_balls(case: Prepared) -> None:
    """Ball arithmetic holds the exact margins, and objects to others."""
    balls, kind = part("balls"), case.draft.kind
    problem = part(kind).read(case.certificate, Limits())
    balls.ready()
    if kind == "boxes":
        part("balls_boxes").check_boxes(problem, np.array(case.exact.proved, dtype=np.int64))
        box, leaves = part("balls_boxes")._Box(problem), part("boxes").leaves(problem)
        for (leaf, label, name), exact in case.bounds.items():
            box.enter(int(leaves.sets[leaf]), leaves.low[leaf], leaves.high[leaf])
            margins = getattr(box, name)(label)
            for c, bound in zip(exact_checker.others(label, len(margins)), exact, strict=True):
                assert abs(float(margins[c].mid()) - bound) <= 1e-12 * (1 + abs(bound))
        claimed = np.flatnonzero(part("boxes").leaves(problem).code > 0)
        if len(claimed) > len(case.exact.proved):
            _objects(lambda: part("balls_boxes").check_boxes(problem, claimed))
        return
    p = len(case.draft.domain.get("left", [0]))
    if kind == "points":
        made, check_all = balls.point_margins(problem), balls.check_points
        rows = [made(t) for t in range(len(case.most))]
        labels, shape = problem.labels.tolist(), (len(rows),)
    else:
        made, check_all = balls.pair_margins, balls.check_pairs
        if kind == "products":
            group = part("balls_products")
            made, check_all = (lambda p: group.PairsInBalls(p).margins), group.check_products
        margins_of = made(problem)
        rows = [margins_of(*divmod(t, p)) for t in range(p * p)]
        labels, shape = labels_of(case.draft).ravel().tolist(), (p, p)
    for row, theirs, label in zip(rows, case.most, labels, strict=True):
        for c, exact in zip(exact_checker.others(label, len(row)), theirs, strict=True):
            assert abs(float(row[c].mid()) - exact) <= 1e-13 * (1 + abs(exact))
            assert float(row[c].rad()) <= 1e-25 * (1 + abs(exact))
    entropy, wrong = np.array(case.entropy).reshape(shape), np.ones(shape)
    assert check_all(problem, -wrong, entropy * (1 + 1e-12) + 1e-30) == wrong.size
    _objects(lambda: check_all(problem, -wrong, entropy * (1 - 1e-12) - 1e-30))
    if len(case.exact.proved) < wrong.size:
        _objects(lambda: check_all(problem, wrong, entropy + 1))


def _objects(call: Any) -> None:
    with pytest.raises(CrossproofError, match="does not confirm"):
        call()
