"""The verifier against one in rational numbers: never more is certified, and hardly less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
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


@dataclass
class Compared:
    """How many margins were compared with the exact ones, and how many of them are hardly zero."""

    margins: int = 0
    edges: int = 0

    def add(self, draft: Draft) -> None:
        """Asserts that nothing is certified that is not exactly so."""
        certificate = as_certificate(draft)
        with np.errstate(all="ignore"):
            verdict, exact = judge(certificate), hostile.exact(draft)
            assert Fraction(verdict.accuracy) <= exact.accuracy
            assert verdict.right <= len(exact.proved)
            if draft.kind == "boxes":
                problem = boxes.read(certificate, Limits())
                proved = boxes.evaluate(Arithmetic(), problem).leaves.tolist()
                assert set(proved) <= set(exact.proved)
            else:
                for ours, theirs in zip(
                    oracle.lows(draft, certificate), exact.margins, strict=True
                ):
                    for low, margin in zip(ours.tolist(), theirs, strict=True):
                        assert low <= margin.decimal
                bound = verdict.cross_entropy
                assert bound is None or bound >= exact_checker.cross_entropy(exact.margins)
        ulp = Decimal(2.0**-52 * float(np.abs(draft.network["b_out"]).max()))
        self.margins += sum(map(len, exact.margins))
        self.edges += sum(abs(m.decimal) <= ulp for row in exact.margins for m in row)


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_no_hostile_certificate_proves_more_than_is_so(kind: str) -> None:
    compared = Compared()
    for seed in range(25):
        compared.add(hostile.hostile(kind, seed))
    assert compared.margins > 150
    assert compared.edges > 10


MILLION = {"points": 250_000, "pairs": 550_000, "boxes": 100_000, "products": 100_000}


@pytest.mark.slow
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_a_million_margins_are_never_above_the_exact_ones(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    compared, seed = Compared(), 1000
    with hostile.fast_fractions(), hostile.untyped():
        while compared.margins < MILLION[kind]:
            compared.add(hostile.hostile(kind, seed, more=4))
            seed += 1
    record_property("margins", compared.margins)
    record_property("edges", compared.edges)
    assert compared.edges > MILLION[kind] // 100


@pytest.mark.parametrize("kind", ["points", "pairs", "products"])
def test_the_exact_bounds_are_below_the_networks_margins(kind: str) -> None:
    for seed in range(20):
        exact = hostile.exact(hostile.hostile(kind, seed))
        for ours, theirs in zip(exact.margins, exact.truth, strict=True):
            for low, truth in zip(ours, theirs, strict=True):
                assert low.gap - truth.gap <= 0 or (low.gap - truth.gap) ** 2 <= low.square


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_the_verifier_reaches_what_is_exact(kind: str) -> None:
    """Margins to rounding, proved boxes and inputs exactly, cross-entropies from above; balls."""
    prepared = oracle.prepare(kind)
    oracle.check(prepared)
    assert sum(len(case.exact.proved) for case in prepared) > 5


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
