"""Parts of certificates of attention layers, each against the same by loops or in fractions."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import hostile_layers
import numpy as np
import pytest

from crossproof.errors import CrossproofError
from crossproof.proof.certificate.format import Certificate, Limits
from crossproof.proof.certificate.verifier import (
    attention,
    balls_attention,
    circuits,
    sequences,
    streams,
)
from crossproof.proof.certificate.verifier.arithmetic import TINY, UNIT, UP, Arithmetic, Rounded
from crossproof.proof.certificate.verifier.balls import SAMPLE
from crossproof.proof.certificate.verifier.circuits import Circuits, LayerWeights
from crossproof.proof.certificate.verifier.groups import Group, Terms, groups
from crossproof.proof.certificate.writer import as_certificate


def certificate(kind: str, seed: int = 1) -> Certificate:
    draft = hostile_layers.attention(np.random.default_rng([seed, 11]), kind, ("dense",))
    return as_certificate(draft)


def tables(V: int, C: int, spread: float = 0.3) -> Circuits:
    g = np.random.default_rng(V)
    low, values = g.standard_normal((2, C, V, V))
    return Circuits(low, low + spread * g.random(low.shape), 0.0, values, values[0] - 1, 0.0)


def gaps() -> attention.Gaps:
    return attention.Gaps(Arithmetic(), tables(3, 2), 0.0, each=False)


def test_an_entry_leads_the_largest_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def barely(table: np.ndarray, kth: int, axis: int) -> np.ndarray:
        """A partition, and no more than that."""
        low, middle, high = np.split(np.sort(table, axis=axis), (kth, kth + 1), axis=axis)
        return np.concatenate([np.flip(low, axis), middle, np.flip(high, axis)], axis=axis)

    monkeypatch.setattr(np, "partition", barely)
    table = np.random.default_rng(0).standard_normal((7, 64))
    others = [[max(np.delete(row, c)) for c in range(64)] for row in table]
    assert (gaps()._lead(table) == table - others).all()


def test_charges_are_size_times_distance_and_the_gaps_own_rounding() -> None:
    charged = gaps()._charged(np.array([[1000.0, 0.0]]), np.array([2.0]), np.array([3.0, 5.0]))
    assert charged.tolist() == [[1000 - (6 * UP + 4000 * UNIT), -10 * UP]]


def test_a_term_is_at_the_worse_end_of_its_exponential() -> None:
    gap = np.array([-3.0, -0.5, 0.0, 0.5, 3.0])
    low, high = np.full(5, 0.5), np.full(5, 2.0)
    assert attention._times(Arithmetic(), low, high, gap).tolist() == [-6, -1, 0, 0.25, 1.5]


def test_queries_are_taken_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(attention._by_query(Arithmetic(), tables(4, 3), True))
    monkeypatch.setattr(attention, "CHUNK", 1)
    parts = list(attention._by_query(Arithmetic(), tables(4, 3), True))
    assert all(len(queries) == 1 for queries, _ in parts)
    assert sum(map(attention.right, parts)) == sum(map(attention.right, whole)) > 0


@pytest.mark.parametrize("far", ["low", "high"])
def test_the_terms_of_all_queries_at_once(far: str, monkeypatch: pytest.MonkeyPatch) -> None:
    V, C = 5, 3
    made, g = tables(V, C), np.random.default_rng(1)
    made = replace(made, direct=made.direct / 9)
    getattr(made, far)[0, 3, 2] = {"low": -9.0, "high": 9.0}[far]
    asked, read = 2 * g.standard_normal(V), g.standard_normal((C, V))
    asked[0], read[0, 0] = 0.01, -0.01  # the least of each is far from the largest
    told: list[tuple[Terms, int]] = []
    errors: list[tuple[float, int]] = []

    def grouped(count: Arithmetic, terms: Terms, label: int, needed: np.ndarray) -> list[Group]:
        told.append((terms, label))
        assert needed.tolist() == [True]
        return []

    def relative(error: float, positions: int) -> float:
        errors.append((error, positions))
        return 0.0

    monkeypatch.setattr(attention, "groups", grouped)
    monkeypatch.setattr(attention, "relative_error", relative)
    problem = attention.read(certificate("attention"), Limits())
    problem = replace(problem, asked=asked, read=read)
    assert list(attention._by_label(Arithmetic(), problem, made)) == []
    size = 8 * max(abs(asked)) * np.abs(read).max()
    size += max(np.abs(made.low).max(), np.abs(made.high).max())
    ((error, positions),) = errors
    assert positions == C
    assert error == pytest.approx(16 * UNIT * size, rel=1e-12, abs=0)
    gap, signs = attention.Gaps(Arithmetic(), made, 0.0, each=False), set[float]()
    for (terms, label), y in zip(told, range(V), strict=True):
        assert label == y
        least, most = np.empty((2, C, y + 1))
        for p, t in np.ndindex(C, y + 1):
            here = asked[: y + 1]
            left = [end[p, : y + 1, t] - here * read[p, t] for end in (made.low, made.high)]
            ends = here * (read[p, t] - read[0, y])
            least[p, t], most[p, t] = min(ends) + min(left[0]), max(ends) + max(left[1])
        lead = gap.values[:, : y + 1, y] + min(gap.direct[q, y] for q in range(y + 1))
        signs |= {*np.sign(lead).ravel().tolist()}
        ends = np.exp([least - most.max(), most - most.max()]) * lead
        np.testing.assert_allclose(terms.free[:, 0, :, 0], ends.min(axis=0), rtol=1e-12)
        assert terms.own.tolist() == [[0.0]]
    assert signs == {-1, 1}


def test_groups_grow_as_long_as_the_worst_sum_is_positive() -> None:
    F, Q, R, label = 2, 3, 2, 3
    g = np.random.default_rng(3)
    terms = Terms(g.normal(0.4, 1, (F, Q, label + 1, R)), g.normal(0.2, 1, (Q, R)), 1e-3)
    needed = np.array([True, False, False])
    made = groups(Arithmetic(), terms, label, needed)
    assert [group.there for group in made] == list(itertools.product((False, True), repeat=F))
    for group in made:
        for q in range(Q):
            below = 0
            for size in range(1, label + 1):
                choices = [[label] if there else range(size) for there in group.there]
                sums = [
                    terms.own[q] + sum(terms.free[p, q, t] for p, t in enumerate(tokens))
                    for tokens in itertools.product(*choices)
                ]
                if not (np.array(sums) > terms.floor).all():
                    break
                below = size
            below = min(below, 1) if all(group.there) else below
            below = 0 if needed[q] and not any(group.there) else below
            assert group.below[q] == below
    assert len({int(below) for group in made for below in group.below}) == 4


def domain(V: int, C: int, order: list[int] | None = None) -> Certificate:
    made = certificate("sequences")
    tensors = {**made.tensors, "domain.order": np.array(order or list(range(V)))}
    return replace(made, sizes={**made.sizes, "V": V, "C": C}, tensors=tensors)


def test_as_many_sequences_are_taken_as_float64_counts() -> None:
    circuits.check_domain(domain(2, 53))
    for wrong, message in (
        (domain(2, 54), "too many"),
        (domain(2, 1), "longer than its query"),
        (domain(3, 3, [0, 1, 1]), "name each of the 3"),
    ):
        with pytest.raises(CrossproofError, match=message):
            circuits.check_domain(wrong)


def test_exponentials_are_1_at_most_and_errors_are_never_nothing() -> None:
    made = tables(4, 3)
    both = circuits.exponentials(Arithmetic(), made.low, made.high, 0.0)
    assert (both.high.max(axis=(0, 2)) == 1).all()
    np.testing.assert_allclose(np.log(both.high / both.low), made.high - made.low, rtol=1e-12)
    assert circuits.off(Arithmetic().exact(np.zeros((2, 2)))) == TINY * UP


def test_runs_of_sequences_are_right_where_their_logits_are_and_count_as_they_say() -> None:
    """Four positions, so that two are taken together and one before them."""
    g, V, C, D, A = np.random.default_rng(5), 3, 4, 4, 2
    shapes = ((V, D), (C, D), (D, A), (D, A), (D, A), (A, D), (D, V))
    made = sequences.Enumeration(Arithmetic(), LayerWeights(*map(g.standard_normal, shapes)))
    tables = made.circuits
    made.count.operations = right = 0
    for query in range(V):
        right += sum(int(block.sum()) for block in made.blocks(query))
    expected = 0
    for tokens in itertools.product(range(V), repeat=C):
        logits = sum(
            np.exp(tables.low[p, tokens[-1], t]) * (tables.values[p, t] + tables.direct[tokens[-1]])
            for p, t in enumerate(tokens)
        )
        expected += int(np.argmax(logits)) == max(tokens)
    assert 0 < right == expected < V**C
    allowed = V * sequences.brute_force(V, C)
    assert made.count.operations <= allowed <= 1.5 * made.count.operations


def test_both_errors_are_charged_at_their_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(tables(3, 3), score_error=1e-3, logit_error=1.0)
    monkeypatch.setattr(sequences, "computed", lambda *_: made)
    one = enumeration(1.0)
    size = np.abs(made.values).max() + np.abs(made.direct).max()
    relative = one.weighted.relative
    assert relative > 1e-3
    charge = 2 * (relative * size + 2 * (1 + relative)) * UP
    assert one.slack == pytest.approx(charge, rel=1e-12, abs=0)


NEEDS = {
    "sequences": [(15_296, 7_869)],
    "attention": [(64_028_696, 10_672), (64_021_016, 7_322), (22_696, 5_358)],
}
"""Bytes and operations of the sequences, and of every grain: options of users rest on them."""


@pytest.mark.parametrize("kind", NEEDS)
def test_what_long_sequences_ask_for_is_known(kind: str) -> None:
    sizes = {"V": 3, "C": 5, "D": 4, "A": 2}
    made = replace(certificate(kind), sizes=sizes)
    asked = (
        [sequences._needs(made)]
        if kind == "sequences"
        else [attention._needs(made, grain) for grain in (1, 2, 3)]
    )
    assert asked == NEEDS[kind]


def changed(**tensors: np.ndarray) -> Certificate:
    made = certificate("attention-latents")
    proof = {f"proof.{name}": tensor for name, tensor in tensors.items()}
    return replace(made, tensors={**made.tensors, **proof})


def test_latents_are_listed_position_by_position() -> None:
    proof = certificate("attention-latents").part("proof")
    indices, offsets = proof["indices"].copy(), proof["offsets"].copy()
    indices[1], offsets[1] = 5, 0  # a token without latents, and one with four of them
    order = np.arange(4)
    dense = streams.Streams.of(changed(offsets=offsets, indices=indices), order).activations
    assert np.count_nonzero(dense[0, :2], axis=-1).tolist() == [1, 5]
    assert (dense[..., -1] == 1).all()
    offsets[1:3] = 4, 3
    for wrong in (offsets, np.concatenate([[1], proof["offsets"][1:]]), np.arange(len(offsets))):
        with pytest.raises(CrossproofError, match="must rise"):
            streams.Streams.of(changed(offsets=wrong), order)


def test_what_pairs_that_are_dropped_may_do_is_charged_with_its_own_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = certificate("attention-latents")
    none = np.zeros_like(made.tensors["proof.kept"])
    problem = attention.read(changed(kept=none), Limits())
    assert problem.streams is not None
    monkeypatch.setattr(streams, "off", lambda _: 0.0)
    through = streams.through(Arithmetic(), problem.weights, problem.streams)
    tau = (through.high - through.low) / 2
    assert tau.min() < tau.max() / 2
    assert through.score_error == pytest.approx(tau.max() * 2.0**-50, rel=1e-12, abs=0)
    true = circuits.computed(Arithmetic(), problem.weights).low
    assert (through.low <= true).all()
    assert (true <= through.high).all()


def test_distances_of_classes_are_never_below_the_true_ones() -> None:
    W_U = np.random.default_rng(4).standard_normal((5, 6))
    count = Arithmetic()
    far = streams._distances(count, count.exact(W_U))
    for y, c in itertools.product(range(6), repeat=2):
        exact = sum((Fraction(u) - Fraction(v)) ** 2 for u, v in W_U[:, [y, c]].tolist())
        assert far[y, c] == 0 if y == c else Fraction(far[y, c]) ** 2 >= exact
        assert far[y, c] == pytest.approx(math.sqrt(exact), rel=1e-12)


def test_the_least_of_balls_is_the_least_of_all() -> None:
    from crossproof.proof.certificate.verifier.balls import ball

    for order in itertools.permutations((1, 2, 3)):
        assert balls_attention._least([ball(number) for number in order]) == 1


def enumeration(output: float) -> sequences.Enumeration:
    """Three tokens that each write themselves, larger ones louder; or quieter."""
    V, C, D = 3, 3, 4
    W_pos, W_E, W_U = np.zeros((C, D)), np.eye(V, D), np.eye(D, V)
    W_E[:, :V] *= 10.0 ** np.arange(V)[:, None]
    zero, W_V = np.zeros((D, D)), output * np.eye(D)
    made = LayerWeights(W_E, W_pos, zero, zero, W_V, np.eye(D), W_U)
    return sequences.Enumeration(Arithmetic(), made)


def test_every_sequence_that_is_drawn_is_derived_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, choices = enumeration(10.0), list[list[np.ndarray]]()
    margins = balls_attention.LayerInBalls.margins

    def noted(*of: Any) -> Any:
        choices.append(of[-1])
        return margins(*of)

    monkeypatch.setattr(balls_attention.LayerInBalls, "margins", noted)
    assert all(block.all() for query in range(3) for block in made.blocks(query))
    assert balls_attention.check_sequences(made) == SAMPLE == len(choices)
    assert {*map(len, choices)} == {2}
    wrong = enumeration(-10.0)
    assert balls_attention.check_sequences(wrong) < SAMPLE
    monkeypatch.setattr(wrong, "right", lambda logits, label: np.array([True]))
    with pytest.raises(CrossproofError, match="does not confirm the sequence"):
        balls_attention.check_sequences(wrong)


def test_margins_in_balls_are_the_sequences_own() -> None:
    g, V, C, D = np.random.default_rng(6), 3, 3, 4
    shapes = ((V, D), (C, D), (D, 2), (D, 2), (D, 2), (2, D), (D, V))
    weights = LayerWeights(*map(g.standard_normal, shapes))
    layer, made = balls_attention.LayerInBalls(weights), circuits.computed(Arithmetic(), weights)
    for tokens in itertools.product(range(V), repeat=C):
        query, label = tokens[-1], max(tokens)
        logits = sum(
            np.exp(made.low[p, query, t]) * (made.values[p, t] + made.direct[query])
            for p, t in enumerate(tokens)
        )
        found = layer.margins(query, label, [np.array([t]) for t in tokens[:-1]])
        margins = [float(margin.mid()) for margin in found]
        np.testing.assert_allclose(margins, logits[label] - logits, rtol=1e-10, atol=1e-10)


def test_the_larger_of_sizes_and_errors_is_kept() -> None:
    from crossproof.proof.certificate.verifier.additive import _choose

    ends = np.array([1.0, 2.0]), np.array([2.0, 1.0])
    one, two = Rounded(np.ones((2, 2)), *ends), Rounded(np.full((2, 2), 2.0), *ends[::-1])
    for first, second in ((one, two), (two, one)):
        made = _choose(np.array([True, False]), first, second)
        assert made.value[:, 0].tolist() == [first.value[0, 0], second.value[0, 0]]
        assert made.size.tolist() == made.error.tolist() == [2, 2]
