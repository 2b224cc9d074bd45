"""Certificates of language models against exact ones: never more, and hardly less."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import exact_checker
import exact_text
import numpy as np
import pytest
import statistical as made
from hostile import untyped
from hostile_text import at_the_edge, exactly, extreme, model_end

from crossproof.proof.certificate.format_contexts import ContextsCertificate
from crossproof.proof.certificate.verifier import verify
from crossproof.proof.certificate.verifier.contexts import judge_contexts, needs
from crossproof.proof.certificate.verifier.statistical import judge_statistical


def hostile_documents(seed: int) -> dict[str, Any]:
    """Few documents or many, narrow ranges and wide ones, rare gaps; of odd seeds gaps at an end.

    These are at the range's end but for rounding, and count as beyond it.
    """
    g = np.random.default_rng(seed)
    draft = made.draft(int(g.integers(2, 60)), seed)
    losses = (
        draft.treated_loss
        + g.choice([0.0, 1.5], draft.treated_loss.shape, p=[0.9, 0.1]) * (draft.tokens[:, None])
    )
    at_ends = (g.random(losses.shape) < 0.2) & (seed % 2 == 1)
    losses = np.where(at_ends, (draft.loss + draft.tokens)[:, None], losses)
    low, high = [(-1.0, 1.0), (-0.3, 0.7), (0.0, 0.25), (-100.0, 3.0)][int(g.integers(4))]
    return {
        "documents": len(draft.tokens),
        "seed": seed,
        "treated_loss": losses,
        "delta": float(g.choice([0.05, 1e-6, 0.3])),
        "low": low,
        "high": high,
    }


@pytest.mark.parametrize("seed", range(8))
def test_a_statistical_claim_is_verified_if_it_follows(seed: int, tmp_path: Path) -> None:
    folder = made.written(tmp_path / "made", **hostile_documents(seed))
    header, tensors = exact_checker.read(folder)
    claim = header["claim"]
    assert verify(folder).holds
    assert exact_text.claims_hold(claim, tensors) == [(True,) * 3] * len(claim["statements"])
    if seed % 2:
        return
    for statement in claim["statements"]:  # hardly less is not verified, and does not follow
        for key in ("loss_gap", "changed", "beyond"):
            statement[key] -= 2e-8 * max(1, claim["range"][1] - claim["range"][0])
    (folder / "certificate.json").write_text(json.dumps(header))
    assert not any(bound.holds for bound in verify(folder).bounds)
    assert exact_text.claims_hold(claim, tensors) == [(False,) * 3] * len(claim["statements"])


def test_a_claim_one_ulp_below_what_is_reached_is_not_verified(tmp_path: Path) -> None:
    folder = made.written(tmp_path / "made")
    header = json.loads((folder / "certificate.json").read_text())
    bounds = iter(verify(folder).bounds)
    for statement in header["claim"]["statements"]:
        for key in ("loss_gap", "changed", "beyond"):
            statement[key] = next(bounds).bound
    (folder / "certificate.json").write_text(json.dumps(header))
    assert verify(folder).holds
    for statement in header["claim"]["statements"]:
        for key in ("loss_gap", "changed", "beyond"):
            statement[key] = math.nextafter(statement[key], -math.inf)
    (folder / "certificate.json").write_text(json.dumps(header))
    assert not any(bound.holds for bound in verify(folder).bounds)


def compared(certificate: ContextsCertificate, edge: bool) -> int:
    """Asserts that no more is certified than is so; how many predictions are kept.

    Norms of four entries multiply rounding where a row is nearly constant: by some 10¹⁰ in the
    worst of the slow suite's models, in all others by less than a third of that.
    """
    kept, blur = 0, 1e-5
    for bound in judge_contexts(certificate).bounds:
        exact = exactly(certificate, bound.mlps, bound.keep)
        lost = exact.kept - bound.kept
        assert 0 <= lost <= (1 if edge else 0)
        assert Decimal(bound.loss_change) >= exact.loss_change
        assert Decimal(bound.token_change) >= exact.token_change
        assert bound.loss_change <= float(exact.loss_change) + blur
        assert bound.token_change <= float(exact.token_change) + blur
        kept += bound.kept
    return kept


@pytest.mark.parametrize("mlps", [1, 2])
def test_what_is_certified_at_contexts_is_exactly_so(mlps: int) -> None:
    assert sum(compared(model_end(seed, mlps), edge=False) for seed in range(5 - mlps)) > 10


def test_what_is_asked_for_is_known() -> None:
    """Bytes and operations; they change on purpose only."""
    assert needs(model_end(0, 1)) == (402_684_216, 163_360)
    assert needs(model_end(0, 2)) == (402_687_592, 311_584)
    assert judge_statistical(made.draft(40)).operations == 115_200


@pytest.mark.parametrize("seed", range(4))
def test_logits_an_ulp_apart_are_kept_by_nobody(seed: int) -> None:
    compared(at_the_edge(model_end(seed, 1), seed), edge=True)


def kept_of_extremes(seed: int, mlps: int) -> int:
    """Asserts that nothing is certified of numbers of any magnitude that is not so."""
    certificate, kept = extreme(seed, mlps), 0
    for bound in judge_contexts(certificate).bounds:
        exact = exactly(certificate, bound.mlps, bound.keep)
        assert bound.kept <= exact.kept
        assert bound.loss_change >= float(exact.loss_change)
        assert bound.token_change >= float(exact.token_change)
        kept += bound.kept
    return kept


@pytest.mark.parametrize("mlps", [1, 2])
def test_of_numbers_of_any_magnitude_no_more_is_certified(
    mlps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_text, "DIGITS", 160)
    assert sum(kept_of_extremes(seed, mlps) for seed in range(5, 9 - mlps)) > 9


@pytest.mark.slow
@pytest.mark.parametrize("mlps", [1, 2])
def test_many_models_ends_are_exactly_so(mlps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with untyped():
        for seed in range(100, 200):
            certificate = model_end(seed, mlps)
            compared(certificate, edge=False)
            compared(at_the_edge(certificate, seed), edge=True)
        monkeypatch.setattr(exact_text, "DIGITS", 160)
        for seed in range(100, 300):
            kept_of_extremes(seed, mlps)
