"""Keeping the m largest contributions, against sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dictionaries import random_case, random_kind
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from tiny_models import random_tokens

from crossproof.crosscoder import SparseLatents
from crossproof.crosscoder.layout import Layout
from crossproof.errors import CrossproofError
from crossproof.evaluation import evaluate
from crossproof.evaluation.keep_curve import keep_counts, trapezoids
from crossproof.interactions import largest_kept
from crossproof.lm import Activation, LanguageModel


@examples(30)
@given(st.integers(0, 2**31), st.booleans())
def test_what_is_kept_is_what_sorting_keeps(seed: int, gated: bool) -> None:
    case = random_case(seed, Activation.SILU, gated=gated)
    view = case.view
    kept = largest_kept(view, case.latents, (1, 2, 4, 100))
    tables = [view.G] if view.G_gate is None else [view.G, view.G_gate]
    p = [torch.einsum("bh,hn->bnh", case.activations, G) for G in tables]
    order = torch.stack([each.abs() for each in p]).sum(0).argsort(2, descending=True)
    for count, sums in kept.items():
        for path, ours in zip(p, sums, strict=False):
            assert ours is not None
            largest = path.gather(2, order[..., :count]).sum(2)
            # Latents 1 and 2 are copies: of a tie either may be kept, and both give the same.
            torch.testing.assert_close(ours, largest)
    value, gate = view.sums(case.latents)
    torch.testing.assert_close(kept[100][0], value)
    if gated:
        assert gate is not None
        torch.testing.assert_close(kept[100][1], gate)
    torch.testing.assert_close(kept[1][0], view.dominance(case.latents).value)


def test_no_active_latent_keeps_nothing() -> None:
    case = random_case(0)
    nothing = SparseLatents.from_dense(torch.zeros_like(case.activations))
    for value, gate in largest_kept(case.view, nothing, (1, 2)).values():
        assert not value.any()
        assert gate is None


@pytest.mark.parametrize(
    ("active", "counts"),
    [(0, (1,)), (1, (1,)), (2, (1,)), (3, (1, 2)), (8, (1, 2, 4)), (9, (1, 2, 4, 8))],
)
def test_counts_stay_below_the_latents_there_are(active: int, counts: tuple[int, ...]) -> None:
    codes = torch.zeros(5, 20)
    codes[:, :active] = 1
    assert keep_counts(SparseLatents.from_dense(codes)) == counts


def test_the_area_of_a_straight_line_is_its_middle() -> None:
    at = np.array([0.0, 1.0, 3.0])
    values = [np.array([[x]]) for x in at]
    assert trapezoids(at, values) == pytest.approx(np.array([[1.5]]))
    assert trapezoids(np.array([0.0]), [np.array([[0.3]])]) == pytest.approx(np.array([[0.3]]))


def test_where_no_latent_is_active_there_is_no_fidelity(
    language_models: dict[str, LanguageModel],
) -> None:
    """All latents do what none do, so a share of the difference says nothing; it was 0."""
    model = language_models["gpt2"]
    made = random_kind(model, ["blocks.0.hook_resid_post"], Layout.joint(6, 1), "relu").float()
    with torch.no_grad():
        made.b_enc.fill_(-1e6)
    result = evaluate(model, made, random_tokens(3, 12))
    assert result.l0 == 0
    assert result.fidelity("none") is result.fidelity("keep-largest") is None
    assert result.keep_curve is not None
    assert not result.keep_curve.area.defined
    assert "Fidelity" not in repr(result)
    with torch.no_grad():
        made.W_dec.zero_()
    with pytest.raises(CrossproofError, match="All decoder vectors are zero"):
        evaluate(model, made, random_tokens(3, 12))
