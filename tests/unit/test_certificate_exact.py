"""The verifier against one in rational numbers: never more is certified, and hardly less."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import exact_checker
import hostile
import numpy as np
import pytest
from certificates import NOTHING, published

from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import boxes, pairs, points, verify
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate, publish


def lows(draft: Draft) -> list[np.ndarray]:
    """The verifier's bounds on the margins of every input against the other classes."""
    certificate, count = as_certificate(draft), Arithmetic()
    rows: dict[int, np.ndarray] = {}
    if draft.kind == "points":
        problem = points.read(certificate, Limits())
        engine = points.PointsEngine(count, problem)
        for label in np.unique(problem.labels).tolist():
            mine = np.flatnonzero(problem.labels == label)
            found = np.delete(engine.margins(mine, label), label, axis=1)
            rows |= dict(zip(mine.tolist(), found, strict=True))
    else:
        adding = pairs.read(certificate, Limits())
        shared = pairs.build_tables(count, adding), pairs.build_blocks(count, adding)
        p = len(adding.left)
        for a in range(p):
            low = pairs.margins(count, adding, *shared, a).low
            for b in range(p):
                rows[a * p + b] = np.delete(low[b], (a + b) % p)
    return [rows[row] for row in range(len(rows))]


def compare(draft: Draft) -> int:
    """Asserts that no bound is above the exact one; how many margins were compared."""
    certificate = as_certificate(draft)
    with np.errstate(all="ignore"):
        verdict, exact = judge(certificate), hostile.exact(draft)
        assert Fraction(verdict.accuracy) <= exact.accuracy
        assert verdict.right <= len(exact.proved)
        if draft.kind == "boxes":
            problem = boxes.read(certificate, Limits())
            proved = boxes.evaluate(Arithmetic(), problem).leaves.tolist()
            assert set(proved) <= set(exact.proved)
            return sum(map(len, exact.margins))
        for ours, theirs in zip(lows(draft), exact.margins, strict=True):
            for low, margin in zip(ours.tolist(), theirs, strict=True):
                assert low <= margin.decimal
    return sum(map(len, exact.margins))


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_no_hostile_certificate_proves_more_than_is_so(kind: str) -> None:
    assert sum(compare(hostile.hostile(kind, seed)) for seed in range(40)) > 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_a_million_margins_are_never_above_the_exact_ones(kind: str) -> None:
    margins = {"points": 700_000, "pairs": 200_000, "boxes": 100_000}[kind]
    compared, seed = 0, 1000
    while compared < margins:
        compared += compare(hostile.hostile(kind, seed))
        seed += 1


@pytest.mark.parametrize("kind", ["points", "pairs"])
def test_the_exact_bounds_are_below_the_networks_margins(kind: str) -> None:
    for seed in range(20):
        exact = hostile.exact(hostile.hostile(kind, seed))
        for ours, theirs in zip(exact.margins, exact.truth, strict=True):
            for low, truth in zip(ours, theirs, strict=True):
                assert low.gap - truth.gap <= 0 or (low.gap - truth.gap) ** 2 <= low.square


def scale(draft: Draft) -> float:
    """The largest sum of absolute values that a margin is made of."""
    net = {name: np.abs(tensor) for name, tensor in draft.network.items()}
    domain = {name: np.abs(tensor) for name, tensor in draft.domain.items()}
    if draft.kind == "pairs":
        x = domain["left"].max(axis=0) + domain["right"].max(axis=0)
        scale = 2.0 ** -draft.proof["scale"]
        effects = sum(np.abs(t).max(axis=0) for k, t in draft.proof.items() if "effect" in k)
        hidden = x @ net["W_in"] + net["b_in"] + effects * scale
        return float((x @ net["skip"] + net["b_out"] + 9 * hidden @ net["W_out"]).max())
    assert draft.dictionary is not None
    atoms, bias = np.abs(draft.dictionary["atoms"]), np.abs(draft.dictionary["bias"])
    latents = np.abs(draft.proof["values"]).max() * np.diff(draft.proof["offsets"]).max()
    x = domain["inputs"].max(axis=0) + latents * atoms.max(axis=0) + bias
    hidden = x @ net["W_in"] + net["b_in"]
    return float((x @ net["skip"] + net["b_out"] + 9 * hidden @ net["W_out"]).max())


@pytest.mark.parametrize("kind", ["points", "pairs"])
def test_bounds_lose_little_more_than_rounding_takes(kind: str) -> None:
    for seed in range(40):
        draft = hostile.MAKERS[kind](np.random.default_rng(seed), ("dense",))
        exact, most = hostile.exact(draft), scale(draft)
        for ours, theirs in zip(lows(draft), exact.margins, strict=True):
            for low, margin in zip(ours.tolist(), theirs, strict=True):
                assert low >= float(margin.decimal) - 1e-12 * most - 1e-150


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_plain_certificates_are_judged_alike(kind: str) -> None:
    """Nothing is near an edge here: the same inputs, and the same boxes, are proved."""
    right = 0
    for seed in range(40):
        draft = hostile.MAKERS[kind](np.random.default_rng(seed), ("dense",))
        verdict, exact = judge(as_certificate(draft)), hostile.exact(draft)
        assert verdict.right == len(exact.proved)
        assert verdict.accuracy == pytest.approx(float(exact.accuracy), rel=1e-12)
        right += verdict.right
        if kind != "boxes":
            entropy = float(exact_checker.cross_entropy(exact.margins))
            assert verdict.cross_entropy is not None
            assert entropy <= verdict.cross_entropy <= entropy * (1 + 1e-8) + 1e-11
    assert right > 30


def test_published_folders_are_judged_alike(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """From the files: both read for themselves, single precision and bytes included."""
    for folder in published(tmp_path_factory).values():
        verdict, exact = verify(folder), exact_checker.check(folder)
        assert verdict.right == len(exact.proved)
        assert Fraction(verdict.accuracy) <= exact.accuracy
        assert verdict.accuracy == pytest.approx(float(exact.accuracy), rel=1e-12)
    assert publish(hostile.hostile("points", 0), tmp_path / "hostile", {}, NOTHING).holds
