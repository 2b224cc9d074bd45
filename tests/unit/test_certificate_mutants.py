"""The verifier's own mutants certify what is false, and are seen to: every term it has is needed.

Small networks on which the bounds are nearly attained are drafted first; then what a mutant of the
verifier certifies about them is compared with running the network. `make mutants` tries many more
changes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import certificates as small
import numpy as np
import pytest
import torch
from mutating import Change

from crossproof.crosscoder.latents import SparseLatents
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.provers.boxes import boxes_draft
from crossproof.proof.certificate.provers.pairs import effects, pairs_draft
from crossproof.proof.certificate.provers.points import points_draft
from crossproof.proof.certificate.verifier import boxes, enclosures, pairs, points
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.writer import as_certificate


@dataclass(frozen=True, eq=False)
class Case:
    """A certificate, and what the network really does."""

    certificate: Any
    network: Any
    domain: Any
    truth: np.ndarray
    labels: np.ndarray


@cache
def points_cases() -> list[Case]:
    """Five points for each of 60 networks of two neurons."""
    cases = []
    for seed in range(60):
        network = small.random_network(3, 2, 2, seed)
        g = small.draws(seed)
        decoder = small.single(torch.randn(3, 3, generator=g))
        activations = torch.rand(5, 3, generator=g, dtype=torch.float64)
        bias = small.single(torch.randn(3, generator=g))
        noise = torch.randn(5, 3, generator=g, dtype=torch.float64) * (seed % 3) / 4
        inputs, labels = activations @ decoder + bias + noise, torch.arange(5) % 2
        latents = SparseLatents.from_dense(activations)
        draft = points_draft(network, inputs, labels, decoder, bias, latents)
        truth = small.true_margins(network, inputs, labels)
        cases.append(Case(as_certificate(draft), network, None, truth, labels.numpy()))
    return cases


def points_are_sound() -> bool:
    """Every margin of every point is below the true one."""
    for case in points_cases():
        engine = points.PointsEngine(Arithmetic(), points.read(case.certificate, Limits()))
        for label in (0, 1):
            rows = np.flatnonzero(case.labels == label)
            if not (engine.margins(rows, label) <= case.truth[rows] + 1e-12).all():
                return False
    return True


@cache
def pairs_cases() -> list[Case]:
    """All pairs modulo 5, with and without blocks."""
    cases = []
    for seed, blocks in itertools.product(range(6), (0, 1)):
        network, domain = small.modular(5, (1, 2), 1, noise=0.5, seed=seed)
        draft = pairs_draft(network, domain, effects(network, domain), blocks)
        labels = domain.labels()
        truth = small.true_margins(network, domain.inputs(), labels).reshape(5, 5, 5)
        cases.append(Case(as_certificate(draft), network, domain, truth, labels.numpy()))
    return cases


def pairs_are_sound() -> bool:
    """Every margin of every pair is below the true one."""
    for case in pairs_cases():
        count, problem = Arithmetic(), pairs.read(case.certificate, Limits())
        tables, built = pairs.build_tables(count, problem), pairs.build_blocks(count, problem)
        for a in range(5):
            low = pairs.margins(count, problem, tables, built, a).low
            if not (low <= case.truth[a] + 1e-12).all():
                return False
        for a, worst, entropy in pairs.evaluate(count, problem):
            least = case.truth[a].min(axis=1)
            exact = np.log1p(np.exp(-case.truth[a]).sum(axis=1))
            if (worst > least + 1e-12).any() or (entropy < exact - 1e-12).any():
                return False
    return True


BOXES = 16
"""Boxes of each network."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Boxes of a case, with a grid of activations in each."""

    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    """[labels, boxes]: the least margin on the grid."""
    labels: np.ndarray
    """[boxes, grid]."""


@cache
def boxes_cases() -> list[tuple[Case, Drawn]]:
    """Boxes of two active features, for networks of one and two neurons."""
    cases = []
    for seed in range(48):
        network = small.random_network(2, 1 + seed % 2, 2, seed)
        g = small.draws(seed)
        draw = [small.single(torch.randn(*s, generator=g)) for s in [(2, 2), (2,), (2, 2)]]
        low = torch.tensor([0.25, 0.5], dtype=torch.float64)
        domain = small.SparseDomain(draw[0], draw[1], low, low + 2, torch.tensor([[0, 1]]), draw[2])
        latents = small.learned_like(domain, 2, 0.3 if seed % 8 == 1 else 0.0, seed)
        if seed % 8 in (4, 5):  # what the dictionary gets wrong switches neurons
            latents = replace(latents, bias=latents.bias + 2 * torch.randn(2, generator=g).double())
        if seed % 4 > 1:  # latents of either sign, which reconstruct all the same
            shift = torch.tensor([1.0, 1.5], dtype=torch.float64)
            latents = replace(latents, offset=-shift[None], bias=domain.bias + shift @ draw[0])
        draft = boxes_draft(network, domain, latents, nodes=1)
        draft = small.with_proof(draft, tree=np.array([-1, 0, -2, 0, 0]))
        none = np.zeros(0)
        case = Case(as_certificate(draft), network, domain, none, none)
        cases.append((case, drawn(network, domain, seed)))
    return cases


def drawn(network: Any, domain: Any, seed: int) -> Drawn:
    """Random boxes of three widths, and the network on a grid in each."""
    g = np.random.default_rng(seed)
    width = g.choice([1e-3, 0.2, 1.5], (BOXES, 2))
    low = domain.low.numpy() + (2 - width) * g.random((BOXES, 2))
    unit = np.array(list(itertools.product(np.linspace(0, 1, 17), repeat=2)))
    at = torch.from_numpy(low[:, None] + unit * width[:, None]).flatten(0, 1)
    inputs, labels = domain.inputs(at), domain.labels(at).reshape(BOXES, -1)
    least = []
    for y in (0, 1):
        truth = small.true_margins(network, inputs, torch.full((len(at),), y))[:, 1 - y]
        least.append(truth.reshape(BOXES, -1).min(axis=1))
    return Drawn(low, low + width, np.stack(least), labels.numpy())


def boxes_are_sound() -> bool:
    """Every bound of every box is below all margins inside; labels and masses are right."""
    return all(_boxes_sound(case, drawn) for case, drawn in boxes_cases())


def _boxes_sound(case: Case, drawn: Drawn) -> bool:
    problem = boxes.read(case.certificate, Limits())
    if boxes.leaves(problem).mass.sum() > 1:
        return False
    prover = boxes.Prover(Arithmetic(), problem)
    sets, active = np.zeros(BOXES, np.int64), np.tile([[0, 1]], (BOXES, 1))
    label, constant = prover.labels(sets, drawn.low, drawn.high)
    if any((drawn.labels[box] != int(label[box])).any() for box in constant):
        return False
    for y in (0, 1):
        batch = enclosures.Boxes(sets, active, drawn.low, drawn.high, y)
        plain = prover.enclosures
        for bound in (plain.interval, plain.linear, prover.additive.margins):
            if not (bound(batch).low[:, 1 - y] <= drawn.least[y] + 1e-12).all():
                return False
    return True


CHECKS = {
    "points": (points_cases, points_are_sound),
    "pairs": (pairs_cases, pairs_are_sound),
    "boxes": (boxes_cases, boxes_are_sound),
}

MUTANTS = [
    ("points", "points", "PointsEngine.margins", "count.subtract(margin, X)", "margin"),
    ("points", "points", "PointsEngine.margins", "count.add(margin, X).low", "margin.low"),
    ("points", "points", "PointsEngine.margins", "np.maximum(best, low)", "best + np.abs(low)"),
    ("points", "points", "PointsEngine.dominant", "count.add(residual, X)", "residual"),
    ("points", "points", "PointsEngine.dominant", "count.add(residual, X)", "X"),
    ("points", "points", "PointsEngine.dominant", "highest.high <= 0", "highest.high <= 1"),
    ("points", "points", "PointsEngine.dominant", "count.maximum(X, kept)", "kept"),
    ("points", "points", "PointsEngine.additive", "count.maximum(z, X).high", "X.high"),
    ("points", "points", "PointsEngine.additive", "down.low >= 0", "down.low >= -1"),
    ("points", "points", "PointsEngine.additive", "up.high <= 0", "up.high <= 1"),
    ("points", "points", "PointsEngine.additive", "X.zero_where(off)", "X.zero_where(off | True)"),
    ("points", "points", "PointsEngine._chain", "X == Y", "X != Y"),
    ("points", "points", "PointsEngine._chain", "count.add(less, X)", "X"),
    ("points", "points", "PointsEngine._chain", "count.add(more, X)", "X"),
    ("points", "points", "PointsEngine._chain", "range(1, X)", "range(2, X)"),
    ("pairs", "pairs", "table_margins", "arithmetic.subtract(gap, charge)", "gap"),
    ("pairs", "pairs", "margins", "(a + b) % p", "(a + b + 1) % p"),
    ("pairs", "pairs", "table_margins", "arithmetic.norm(X)", "arithmetic.norm(X[where[1] // 2])"),
    ("pairs", "pairs", "table_margins", "blocks.distance[label]", "blocks.distance[0]"),
    ("pairs", "pairs", "table_margins", "X if logits is None else Y", "X"),
    ("pairs", "pairs", "build_blocks", "arithmetic.subtract(X, span)", "span"),
    ("pairs", "arithmetic", "log_sum", "shift + np.log(X)", "np.log(X)"),
    ("boxes", "enclosures", "Enclosures.smallest", "count.minimum(*X)", "count.maximum(*X)"),
    ("boxes", "enclosures", "Enclosures.output", "count.product(low, X)", "count.product(high, X)"),
    ("boxes", "enclosures", "Enclosures.output", "count.product(high, X)", "count.product(low, X)"),
    ("boxes", "enclosures", "Enclosures.linear", "count.add(X, lift)", "X"),
    ("boxes", "enclosures", "Enclosures._relaxation", "np.where(X, 1.0, 0.0)",
     "1.5 * np.where(X, 1.0, 0.0)"),
    ("boxes", "enclosures", "Enclosures._relaxation", "np.maximum(high.high, 0.0)",
     "0.7 * np.maximum(high.high, 0.0)"),
    ("boxes", "additive", "Additive.margins", "count.add(margins, self._skip_error(X))", "margins"),
    ("boxes", "additive", "Additive._neuron_error", "X.min(axis=1) >= 0", "X.min(axis=1) >= -9"),
    ("boxes", "additive", "Additive._neuron_error", "(count.add(down, X), count.add(up, Y))",
     "(down, up)"),
    pytest.param("boxes", "additive", "Additive._neuron_error", "(top.high <= 0) & X", "X",
                 marks=pytest.mark.slow),
    ("boxes", "additive", "Additive._interaction", "(bottom.low >= 0) | X", "top.high <= 9"),
    ("boxes", "additive", "Additive._interaction", "(count.minimum(*X), count.maximum(*X))",
     "(X[0], X[0])"),
    pytest.param("boxes", "curves", "Curves.smallest", "count.minimum(least, inside)", "least",
                 marks=pytest.mark.slow),
    ("boxes", "curves", "Curves.smallest", "count.minimum(*at_ends)", "at_ends[1]"),
    ("boxes", "boxes", "Prover._labels", "self._positive(X, Y)", "np.ones(len(rows), bool)"),
    ("boxes", "boxes", "masses", "high - low", "2 * (high - low)"),
]  # fmt: skip


@pytest.mark.parametrize("kind", CHECKS)
def test_the_verifier_itself_is_sound(kind: str) -> None:
    _, sound = CHECKS[kind]
    assert sound()


@pytest.mark.parametrize(("kind", "module", "function", "old", "new"), MUTANTS)
def test_mutants_certify_what_is_false(
    kind: str, module: str, function: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, sound = CHECKS[kind]
    cases()  # drafted by provers that use the verifier's own arithmetic: before it is changed
    Change(function, old, new, f"verifier.{module}").apply(monkeypatch)
    with np.errstate(all="ignore"):
        assert not sound()
