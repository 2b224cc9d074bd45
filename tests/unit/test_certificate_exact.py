"""The verifier against one in rational numbers: never more is certified, and hardly less."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import exact_checker
import hostile
import numpy as np
import oracle
import pytest
from certificates import NOTHING, published

from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import boxes, verify
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate, publish


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
        for ours, theirs in zip(oracle.lows(draft, certificate), exact.margins, strict=True):
            for low, margin in zip(ours.tolist(), theirs, strict=True):
                assert low <= margin.decimal
    return sum(map(len, exact.margins))


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_no_hostile_certificate_proves_more_than_is_so(kind: str) -> None:
    assert sum(compare(hostile.hostile(kind, seed)) for seed in range(25)) > 150


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


def test_the_verifier_reaches_what_is_exact() -> None:
    """Margins to rounding, proved boxes and inputs exactly, cross-entropies from above; balls."""
    prepared = oracle.prepare(dense=6, edges=0)
    oracle.check(prepared)
    for kind in hostile.KINDS:
        assert sum(len(c.exact.proved) for c in prepared if c.draft.kind == kind) > 5


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
