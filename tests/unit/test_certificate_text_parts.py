"""Parts of language models' certificates, each against its formula written again, or fractions.

γ is made large where it is small beside other slack, so that what it is multiplied by shows.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import statistical as made
from hostile_text import model_end

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.verifier import confidence, contexts, layers, statistical
from crossproof.proof.certificate.verifier import model_end as ends
from crossproof.proof.certificate.verifier.arithmetic import TINY, UNIT, UP, gamma
from crossproof.proof.certificate.verifier.layers import AttentionLayer, NormLayer, Rows
from crossproof.proof.certificate.verifier.logits import Logits

LARGE = 1e-6
"""γ a term, where it is made large."""


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], float]:
    def gamma(terms: int) -> float:
        return LARGE * terms

    for module in (layers, ends):
        monkeypatch.setattr(module, "gamma", gamma)
    return gamma


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)


def test_lengths_allow_for_their_roundings_and_for_squares_that_vanish() -> None:
    for row in ([3.0, 4.0], [3.0, 4.0, 0.0]):
        n = len(row)
        assert layers.lengths(np.array([row] * 5)).tolist() == 5 * [
            5 * (1 + gamma(n + 4)) + 1e-150 * n
        ]
        assert layers.lengths(np.zeros((5, n))).tolist() == 5 * [1e-150 * n]
    assert Rows.exact(np.ones((2, 3))).radius.shape == (2,)
    assert layers.bounded(np.ones((2, 3)), np.zeros(2)).radius.tolist() == 2 * [TINY * UP]


@pytest.mark.parametrize("W", [[[2.0, 0.0]], [[2.0], [0.0]], [[2.0]]])
def test_the_spectral_bound_by_hand(W: list[list[float]], large: Callable[[int], float]) -> None:
    lost = large(max(len(W), len(W[0])) + 8)
    one = 1 + large(1 + 4)  # the smaller Gram matrix has one entry
    scale = 4 * one * UP
    bound = (4 / scale) ** 8 * one + lost
    for _ in range(3):
        bound = (math.sqrt(bound) + lost) * UP
    size = 2 * (1 + large(sum(map(len, W)) + 4))
    close(layers.spectral(np.array(W)), math.sqrt(scale * bound + 2 * lost * size**2) * UP)


@pytest.mark.parametrize("radius", [0.0, 0.5, 10.0])
def test_the_radius_behind_a_norm_by_hand(radius: float, large: Callable[[int], float]) -> None:
    norm = NormLayer(np.array([1.0, -2.0]), np.array([0.5, 0.0]), 0.25, False)
    size, lost = 5 * (1 + large(2 + 4)), large(2 * 2 + 32)
    blur = radius + lost * size
    least = math.sqrt(max(size * (1 - 4 * lost) - blur, 0) ** 2 + 2 * 0.25) * (1 - lost)
    strength = math.sqrt(2) * 2 / least
    rounding = 4 * lost * (strength * size + 0.5 * (1 + large(2 + 4)))
    made = norm(Rows(np.array([[3.0, 4.0]]), np.array([radius])))
    close(made.radius, (strength * blur + rounding) * UP)


def attention(turns: tuple[np.ndarray, np.ndarray] | None = None) -> AttentionLayer:
    return AttentionLayer([], [], [], [], np.zeros(1), -0.5, None, turns)


def test_the_radius_behind_attention_by_hand(large: Callable[[int], float]) -> None:
    query, key, value = (
        Rows(np.array([[[size]]]), np.array([[radius]]))
        for size, radius in ((3.0, 0.1), (-2.0, 0.2), (5.0, 0.3))
    )
    q, k, v = (size * (1 + large(1 + 4)) for size in (3, 2, 5))
    moved = (q + 0.1) * 0.2 + 0.1 * k + large(1 + 8) * q * k
    moved = 0.5 * moved + 8 * UNIT * (0.5 * q * k + 1)
    weights = moved + 2 * large(1 + 32)
    made = attention().mixed(query, key, value)
    close(made.radius, [[((weights + large(1 + 8)) * v + 0.3) * UP]])


def test_large_scores_do_not_overflow() -> None:
    x = Rows.exact(np.full((1, 2, 1), 40.0))
    assert attention().mixed(x, Rows.exact(-x.value), x).value.tolist() == [[[40.0], [40.0]]]


def test_coordinates_that_no_rotation_turns_keep_their_radius() -> None:
    zero = np.zeros((1, 1))
    rows = Rows(np.ones((1, 1, 3)), np.array([[0.5]]))
    assert attention((zero, zero)).turned(rows).radius.item() >= 0.5


def test_what_is_certain_is_so_by_more_than_the_ends_are_rounded() -> None:
    near = 1 - UNIT * np.arange(4, 6)
    for size in (1.0, 2.0**20):
        value = size * np.stack([np.ones(2), near], axis=-1)
        assert Logits(value, np.zeros((2, 2))).certain.tolist() == [-1, 0]
    wide = Logits(np.array([[8 + 32 * UNIT, 2.0]]), np.full((1, 2), 3.0))
    assert wide.certain.tolist() == [-1]
    nothing = Logits.of(Rows.exact(np.zeros((1, 2))), np.zeros((3, 2)), np.zeros(3))
    assert (nothing.error >= TINY).all()


def test_sizes_of_contributions_by_hand(large: Callable[[int], float]) -> None:
    end = ends.ModelEnd(model_end(0, 1))
    code, atoms = end.part("contexts"), np.arange(1.0, 7)
    terms = np.abs(code["values"]) * atoms[code["indices"]]
    offsets = code["offsets"].tolist()
    sums = [terms[a:b].sum() for a, b in itertools.pairwise(offsets)]
    close(end._sizes(atoms), np.array(sums) + 2 * large(len(terms) + 4) * terms.sum())


@pytest.mark.parametrize("mlps", [1, 2])
def test_contributions_are_taken_a_chunk_at_a_time(
    mlps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contexts.judge_contexts(model_end(3, mlps)).bounds
    monkeypatch.setattr(ends, "CHUNK", 1)
    assert contexts.judge_contexts(model_end(3, mlps)).bounds == expected


NEEDS = {
    (1, 2**22): (402_684_216, 163_360),
    (1, 1): (32_472, 163_360),
    (2, 1): (35_848, 311_584),
}
"""Bytes and operations, by MLPs and chunk: options of users rest on them."""


@pytest.mark.parametrize(("mlps", "chunk"), NEEDS)
def test_what_is_asked_for_is_known(mlps: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "CHUNK", chunk)
    assert contexts.needs(model_end(0, mlps)) == NEEDS[mlps, chunk]


class Given(Logits):
    """Logits whose losses, and what they may be off by, are said."""

    def loss(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.value[:, 0], self.error[:, 0]


@pytest.mark.parametrize(
    ("losses", "bound"), [([1.0, 1.0], 1 + 10 * UNIT), ([math.nan, 1.0], math.inf)]
)
def test_differences_are_rounded_up(losses: list[float], bound: float) -> None:
    """1, and 2u for subtracting 0 from it, 4u and 8u for the rest: 1 + 14u and 1 + 10u."""
    end, zero = ends.ModelEnd(model_end(0, 1)), np.zeros(2)
    end.__dict__["labels"] = np.zeros(2, np.int64)
    nothing = Rows.exact(np.zeros((1, 1)))
    end.__dict__["model"] = ends.ModelRun(nothing, nothing, [], np.zeros(2, np.int64), zero, zero)
    treated = Given(np.array([losses, losses]).T, np.zeros((2, 2)))
    found = end._compared(end.certificate.statements[0], treated)
    assert found.loss_change == bound
    assert found.token_change == (1 + 14 * UNIT if bound < 2 else bound)


def test_the_likeliest_of_the_models_own_choices_is_counted() -> None:
    certificate = model_end(1, 1)
    began = time.perf_counter()
    result = contexts.judge_contexts(certificate)
    best = ends.ModelEnd(certificate).model.best.tolist()
    assert result.constant == max(best.count(label) for label in range(5)) > 1
    assert len({*best}) > 1
    assert 0 <= result.seconds <= time.perf_counter() - began


@pytest.mark.parametrize(
    ("best", "most"),
    [([-1, 2, 2, 1], 3), ([-1, -1, 1, 0], 3), ([1, 0, 0, 0], 3), ([1, 1, 2, 3], 2), ([-1] * 4, 4)],
)
def test_a_prediction_that_is_not_certain_may_be_of_any_token(
    best: list[int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a claim says nothing is judged by the most that one token may keep."""
    run = SimpleNamespace(best=np.array(best), loss=np.zeros(4))
    end = SimpleNamespace(labels=np.arange(4), model=run, bounds=lambda: iter(()))
    monkeypatch.setattr(contexts, "ModelEnd", lambda _: end)
    assert contexts.judge_contexts(model_end(1, 1)).constant == most


def given_to(name: str, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """What a bound is asked about from now on, to which it says 0."""
    asked: list[np.ndarray] = []

    def bound(values: np.ndarray, alpha: float) -> float:
        asked.append(values)
        return 0.0

    monkeypatch.setattr(statistical, name, bound)
    return asked


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.25, 0.75), (-1.25, 0.75)])
def test_documents_numbers_are_rounded_up(
    low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = replace(made.draft(60), low=low, high=high)
    draft.treated_loss[0, 0] = 0.0  # far below the range
    draft.treated_loss[1, 0] = 10 * draft.loss[1]  # and beyond
    draft.changed[2] = draft.tokens[2]
    asked = given_to("betting", monkeypatch)
    gap, changed, _ = statistical._bounds(draft, 0, 0.01)
    width = high - low
    assert gap.bound == low + 8 * UNIT * (abs(low) + width)
    assert changed.bound == 0
    assert asked[0][0] == 16 * UNIT * (1 + abs(low) / width)
    assert asked[0][1] == asked[1][2] == 1
    for at, (scaled, share) in enumerate(zip(*asked, strict=True)):
        tokens = int(draft.tokens[at])
        more = Fraction(draft.treated_loss[at, 0]) - Fraction(draft.loss[at])
        exact = min(max(more / tokens, Fraction(low)), Fraction(high)) - Fraction(low)
        assert exact / Fraction(width) <= Fraction(scaled) <= 1
        assert Fraction(int(draft.changed[at, 0]), tokens) <= Fraction(share) <= 1


def test_gaps_at_the_ends_of_the_range_are_within_it() -> None:
    draft = made.draft(60)
    gaps = np.sort(statistical._gaps(draft, 0))
    gap, _, beyond = statistical._bounds(
        replace(draft, low=float(gaps[3]), high=float(gaps[50])), 0, 0.01
    )
    assert (gap.clipped, beyond.measured) == (3 + 9, 9 / 60)


def test_a_statement_has_its_share_of_delta_rounded_down() -> None:
    for delta in (0.05, 0.01, 0.1, 0.3, 0.001, 0.7):
        result = statistical.judge_statistical(made.draft(5, delta=delta))
        assert 0 <= Fraction(delta) / 6 - Fraction(result.level) < delta * 4 * UNIT
    began = time.perf_counter()
    result = statistical.judge_statistical(made.draft(5, low=-0.5, high=2.0))
    assert (result.low, result.high) == (-0.5, 2.0)
    assert 0 <= result.seconds <= time.perf_counter() - began
    statistical.judge_statistical(made.draft(5), Limits(memory=1800))
    with pytest.raises(CrossproofError, match="memory"):
        statistical.judge_statistical(made.draft(5), Limits(memory=1799))


def test_the_tail_of_counts_by_hand() -> None:
    """log P(at most k of n), charged by n and by the logarithms that are added."""
    for count, k, chance in ((1, 0, 0.5), (4, 2, 0.25)):
        ways = [math.comb(count, i) for i in range(k + 1)]
        tail = sum(w * chance**i * (1 - chance) ** (count - i) for i, w in enumerate(ways))
        size = math.log(max(ways)) - count * math.log(chance * (1 - chance)) + 8
        found = confidence._tail(np.log(ways), count, chance)
        charged = found - math.log(tail)
        assert charged == pytest.approx(gamma(count + 16) * size, rel=0, abs=5 * UNIT)


def test_bounds_are_raised_by_what_roundings_may_have_taken() -> None:
    assert confidence._up(0.0) == 32 * UNIT * (1 + 32 * UNIT)
    assert confidence._up(0.5) == 0.5 + 48 * UNIT
