"""Certificates of attention layers: sound to the last sequence, whatever they are told."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import layers_of_attention as layers
import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.proof.bounds import Dictionary, read_network, save_network
from crossproof.proof.certificate import ProverOptions, network_hash, prove, verify
from crossproof.proof.certificate.format import Certificate, Limits
from crossproof.proof.certificate.provers.attention import attention_draft
from crossproof.proof.certificate.verifier import attention, circuits, sequences, streams
from crossproof.proof.certificate.verifier.arithmetic import UNIT, UP, Arithmetic
from crossproof.proof.certificate.verifier.groups import Terms, groups
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate

GRAINS = ("class", "query", "label")


def parts_of(network: layers.AttentionNetwork) -> Dictionary:
    """Tokens and positions as decoder vectors, two active each: nothing is left over."""
    decoder, V, C = torch.cat([network.W_E, network.W_pos]), len(network.W_E), len(network.W_pos)

    def encode(x: Float[Tensor, "B D"]) -> Float[Tensor, "B H"]:
        rows = torch.arange(C * V)
        active = torch.zeros(C * V, V + C, dtype=torch.float64)
        active[rows, rows % V] = active[rows, V + rows // V] = 1.0
        return active

    return Dictionary(decoder, torch.zeros(decoder.shape[1], dtype=torch.float64), encode)


def drafts(
    network: layers.AttentionNetwork, like: layers.AttentionNetwork | None = None, seed: int = 0
) -> list[Draft]:
    """Every grain, then every grain through the parts of a layer `like` it, then one by one."""
    domain = layers.ordered(len(network.W_E), seed)
    made = [attention_draft(network, domain, ProverOptions(grain=grain)) for grain in GRAINS]
    through = parts_of(like or network)
    made += [
        attention_draft(network, domain, ProverOptions(grain=grain), through) for grain in GRAINS
    ]
    return [*made, attention_draft(network, domain, ProverOptions(kind="sequences"))]


@cache
def cases() -> list[tuple[list[Draft], dict[tuple[int, ...], Decimal]]]:
    """Layers that are right on some sequences, certificates of each, and the truth."""
    weak, good = layers.maximum(4, 3, 0, 0.3, 0.02), layers.maximum(4, 3, 1, 2.0, 0.02)
    large = layers.maximum(3, 4, 2, 1.0, 0.3)
    near = layers.sharper(large, 1.05)
    networks = [
        (weak, layers.sharper(weak, 1.2), 0),
        (weak, layers.sharper(weak, 6.0), 0),
        (layers.swapped(good, 1), good, 1),
        (large, near, 2),
        (layers.maximum(4, 3, 0, noise=0.35), None, 0),
        (layers.random_layer(5, 2, 3, 2, 0), None, 0),
    ]
    made = []
    for network, like, seed in networks:
        ours = drafts(network, like, seed)
        made.append((ours + [lies(d, seed) for d in ours[:-1]], layers.margins(ours[0])))
    return made


def something_wrong() -> bool:
    """Whether a sequence is counted that is not right."""
    return any(
        true[sequence] <= 0
        for ours, true in cases()
        for draft in ours
        for sequence in layers.proved(draft)
    )


def lies(draft: Draft, seed: int) -> Draft:
    """The same with wrong numbers in everything that may hold any."""
    g = np.random.default_rng(seed)
    proof: dict[str, Any] = dict(draft.proof)
    for name in ("asked", "read", "values"):
        if name in proof:
            proof[name] = proof[name] * g.uniform(0.5, 1.5, proof[name].shape)
    if "kept" in proof:
        proof["kept"] = g.integers(0, 2, proof["kept"].shape)
    atoms = draft.dictionary and {
        k: t + 0.05 * g.standard_normal(t.shape) for k, t in draft.dictionary.items()
    }
    return replace(draft, proof=proof, dictionary=atoms)


def test_no_sequence_is_counted_that_is_not_right() -> None:
    for ours, true in cases():
        for draft in ours:
            counted = layers.proved(draft)
            assert len(set(counted)) == len(counted)
            assert all(true[sequence] > 0 for sequence in counted)
            if draft in ours[:7]:
                assert judge(as_certificate(draft)).right == len(counted)
    most = [max(len(layers.proved(ours[kind])) for ours, _ in cases()) for kind in range(6)]
    assert min(most) > 20  # of 64 or so: what is not certified cannot be wrong


def test_sequences_one_by_one_are_the_truth_and_groups_come_close() -> None:
    for ours, margins in cases():
        true = {sequence for sequence, margin in margins.items() if margin > 0}
        assert 0 < len(true) < len(margins)
        assert set(layers.proved(ours[6])) == true
        by_grain = [set(layers.proved(draft)) for draft in ours[:2]]
        assert true >= by_grain[0] >= by_grain[1]


def test_the_grain_of_classes_proves_every_group_that_is_right() -> None:
    """A group's worst sequence is exact: what is left out is wrong, or below one that is."""
    for ours, true in cases():
        counted = set(layers.proved(ours[0]))
        for sequence in set(true) - counted:
            *tokens, q = sequence
            label = max(sequence)
            most = max((t for t in tokens if t != label), default=-1)
            group = itertools.product(*([label] if t == label else range(most + 1) for t in tokens))
            assert any(true[(*other, q)] <= 0 for other in group)


def test_a_dictionary_without_residual_proves_what_the_circuits_prove() -> None:
    made = drafts(layers.maximum(4, 3, 0, noise=0.15))
    for direct, through in zip(made[:3], made[3:6], strict=True):
        through.proof["kept"][:] = 1  # type: ignore[index]
        assert set(layers.proved(direct)) == set(layers.proved(through))


def test_ties_are_not_right() -> None:
    network = layers.maximum(4, 3, 0, noise=0.0)
    W_U = network.W_U.clone()
    W_U[:, 2] = W_U[:, 3]
    network = replace(network, W_U=W_U)
    domain = layers.SequenceDomain(torch.arange(4))
    for options in [*(ProverOptions(grain=g) for g in GRAINS), ProverOptions(kind="sequences")]:
        counted = layers.proved(attention_draft(network, domain, options))
        assert counted
        assert all(max(sequence) < 2 for sequence in counted)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 30.0, 1e6, 1e25])
def test_magnitudes_prove_nothing_false(size: float) -> None:
    """Scores from nothing to far beyond what an exponential holds."""
    network = layers.maximum(3, 3, 0, noise=0.2)
    made = drafts(replace(network, W_Q=network.W_Q * size))
    if size > 1e20:
        assert not any(map(layers.proved, made))
        return
    true = layers.margins(made[0])
    assert all(true[sequence] > 0 for draft in made for sequence in layers.proved(draft))


def test_terms_that_would_overflow_prove_nothing_false() -> None:
    """All scores are 700: the first term alone exceeds what a float64 holds, the sum is below 0."""
    V, C = 2, 3
    network = {"W_E": np.eye(V, V + C), "W_pos": np.eye(C, V + C, V)}
    network |= {name: np.zeros((V + C, 2)) for name in ("W_Q", "W_K", "W_V", "W_U")}
    network["W_O"] = np.zeros((2, V + C))
    network["W_Q"][V + 2, 0], network["W_K"][V:, 0] = 1.0, 700.0
    network["W_V"][V:, 0] = 18737.0, -9860.0, -14790.0
    network["W_O"][0, V] = network["W_U"][V, 1] = 1.0
    proof = {"grain": np.array([3]), "asked": np.zeros(V), "read": np.zeros((C, V))}
    draft = Draft("attention", network, {"order": np.arange(V)}, proof)
    true = layers.margins(draft)
    assert {sequence for sequence, margin in true.items() if margin > 0} == {(0, 0, 0)}
    assert layers.proved(draft) == [(0, 0, 0)]


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (attention.Gaps, "_charged", lambda self, gap, size, distance: gap),
        (attention.Gaps, "_lead", lambda self, table: table),
        (streams, "_residual", lambda *_: []),
        (attention, "_times", lambda count, low, high, gap: high * gap),
        (attention, "_times", lambda count, low, high, gap: low * gap),
    ],
)
def test_mutants_certify_what_is_false(
    where: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, wrong)
    assert something_wrong()


def test_rounding_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Margins made zero but for the last digits: without slack some are counted wrongly."""

    def false() -> int:
        wrongly = 0
        for seed in range(12):
            network = layers.random_layer(3, 2, 3, 2, seed)
            made = attention_draft(
                network, layers.SequenceDomain(torch.arange(3)), ProverOptions(grain="class")
            )
            U = made.network["W_U"]
            U[:, 1:] = U[:, :1] * (1 + 1e-16 * np.arange(1, 3))  # equal columns, or an ulp apart
            true = layers.margins(made)
            others = [made, replace(made, kind="sequences", proof={})]
            wrongly += sum(true[s] <= 0 for draft in others for s in layers.proved(draft))
        return wrongly

    assert false() == 0
    monkeypatch.setattr(attention.Gaps, "_lowered", lambda self, gap, absolute: gap)
    monkeypatch.setattr(attention, "floor", lambda *_: 0.0)
    assert false() > 0


def broken(draft: Draft, part: str, name: str, value: Any) -> Draft:
    return replace(draft, **{part: dict(getattr(draft, part)) | {name: value}})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("order", np.array([0, 1, 2, 2]), "each of the 4 tokens once"),
        ("grain", np.array([0]), "between 1 and 3"),
        ("grain", np.array([4]), "between 1 and 3"),
        ("grain", np.array([1, 1]), "one number"),
        ("kept", np.full((8, 8), 2), "between 0 and 1"),
        ("kept", np.ones((7, 7), np.int64), "must be 13 long and proof.kept"),
        ("offsets", np.arange(14), "must be 13 long"),
        ("offsets", np.arange(13)[::-1].copy(), "must rise"),
        ("offsets", np.arange(13), "must rise"),
        ("indices", np.zeros(24, np.int64), "names a latent twice"),
        ("indices", np.full(24, 7), "between 0 and 6"),
        ("W_pos", np.ones((1, 6)), "W_pos needs 2 rows"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, value: Any, message: str) -> None:
    draft = drafts(layers.maximum(4, 3))[3]
    if name == "W_pos":  # a layer of one position, whole in itself
        draft = drafts(layers.maximum(4, 3))[6]
    part = {"order": "domain", "W_pos": "network"}.get(name, "proof")
    with pytest.raises(CrossproofError, match=message):
        judge(as_certificate(broken(draft, part, name, value)))


def test_too_many_sequences_are_refused() -> None:
    network = layers.random_layer(100, 9, 2, 2, 0)
    domain = layers.ordered(100)
    with pytest.raises(CrossproofError, match="more than 2\\^53"):
        judge(as_certificate(attention_draft(network, domain, ProverOptions())))


def needs(certificate: Certificate) -> tuple[int, int]:
    """Bytes and operations that the verifier says it needs."""
    asked: list[tuple[int, int]] = []

    class Asking(Limits):
        def check(self, memory: int = 0, operations: int = 0) -> None:
            asked.append((memory, operations))

    module = sequences if certificate.kind == "sequences" else attention
    module.read(certificate, Asking())
    return asked[-1]


def test_errors_of_logits_count_as_much_as_the_exponential_that_they_stand_behind() -> None:
    """Both may be at their worst at once: 4 errors, times an exponential 1% above its value."""
    zero = np.zeros((2, 2, 2))
    table = circuits.Circuits(zero, zero, 0.0, zero, np.zeros((2, 2)), logit_error=1.0)
    for each in (True, False):
        values, direct = attention.Gaps(Arithmetic(), table, 0.01, each).of(1)
        assert (values <= -4.04).all()
        assert (direct == 0).all()


def test_every_sequence_is_charged_the_largest_output_and_both_errors() -> None:
    weights = sequences.read(as_certificate(drafts(layers.maximum(4, 3))[6]), Limits())
    made = sequences.Enumeration(Arithmetic(), weights)
    largest = np.abs(made.circuits.values).max() + np.abs(made.circuits.direct).max()
    relative, error = made.weighted.relative, made.circuits.logit_error
    charge = 2 * (relative * largest + 2 * error * (1 + relative))
    assert charge <= made.slack <= charge * (1 + 1e-8)


def test_every_operation_is_counted() -> None:
    """Of sequences of three out of V: tables, a block of V² sequences a query, their verdicts."""
    V, C = 3, 3
    weights = sequences.read(as_certificate(drafts(layers.maximum(V, C))[6]), Limits())
    enumeration = sequences.Enumeration(Arithmetic(), weights)
    enumeration.count.operations = 0
    list(enumeration.blocks(1))
    rows, base, block = 2 * C * V * V + C * V, V * (V + 1), V * V * (V + 1)
    assert enumeration.count.operations == rows + base + block + (block + 3 * V * V)


@pytest.mark.parametrize(("free", "label"), [(1, 2), (2, 1), (3, 2)])
def test_every_operation_on_groups_is_counted(free: int, label: int) -> None:
    """Minima once; then of every set of places where the label stands a sum and a comparison."""
    count, (queries, classes) = Arithmetic(), (2, 3)
    own = np.zeros((queries, classes))
    terms = Terms(np.zeros((free, queries, label + 1, classes)), own, 1.0)
    made = groups(count, terms, label, np.array([True, False]))
    lowest, expected = queries * label * classes, free * queries * label * classes
    for there in itertools.product((0, 1), repeat=free):
        elsewhere = free - sum(there)
        expected += sum(there) * own.size
        expected += (elsewhere + 1) * lowest if elsewhere else own.size
    assert count.operations == expected
    assert sum(int(group.sequences.sum()) for group in made) == 0


def test_nothing_is_made_of_what_is_too_large() -> None:
    """The limit comes first: latents that would be refused for their own sake are not unpacked."""
    draft = drafts(layers.maximum(4, 3))[3]
    wrong = broken(draft, "proof", "indices", np.full_like(draft.proof["indices"], 99))
    with pytest.raises(CrossproofError, match="bytes of memory; the limit"):
        attention.read(as_certificate(wrong), Limits(memory=1000))


SHAPES = [(5, 3, 4, 3), (24, 2, 3, 2)]
COSTS = {
    (5, 3, 4, 3): [
        (64_050_208, 17_656, 6_523), (64_027_168, 9_481, 3_908), (35_088, 6_706, 4_303),
        (64_086_480, 41_718, 25_168), (64_063_440, 33_543, 21_003), (71_360, 30_768, 20_918),
        (25_000, 9_231, 5_293),
    ],
    (24, 2, 3, 2): [
        (64_793_560, 1_586_724, 883_932), (64_252_888, 151_620, 64_328), (467_928, 79_476, 44_860),
        (65_205_480, 2_066_544, 1_777_672), (64_664_808, 631_440, 450_980),
        (879_848, 559_296, 409_608), (241_552, 335_220, 105_208),
    ],
}  # fmt: skip
"""Bytes and operations that are asked for, and operations that are counted, draft by draft: options
of users and tables of the documentation rest on them, and they change on purpose only."""
LARGE = [(5, 3, 200, 2), (40, 2, 3, 2), (12, 5, 3, 2), (6, 3, 2, 300), (30, 3, 9, 4)]


@pytest.mark.parametrize(
    "shape", [*SHAPES, *(pytest.param(shape, marks=pytest.mark.slow) for shape in LARGE)]
)
def test_no_more_is_used_than_was_asked_for(shape: tuple[int, int, int, int]) -> None:
    costs = []
    for draft in drafts(layers.random_layer(*shape, 0, 0.3)):
        certificate = as_certificate(draft)
        memory, operations = needs(certificate)
        tracemalloc.start()
        verdict = judge(certificate)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert certificate.memory + peak <= memory + 500_000
        assert verdict.operations <= operations <= 4 * verdict.operations, draft.kind
        with pytest.raises(CrossproofError, match="operations; the limit"):
            judge(certificate, limits=Limits(operations=operations - 1))
        costs.append((memory, operations, verdict.operations))
    assert costs == COSTS.get(shape, costs)


@pytest.mark.parametrize("options", [ProverOptions(grain="query"), ProverOptions(kind="sequences")])
def test_a_folder_is_proved_and_verified_again_in_balls(
    options: ProverOptions, tmp_path: Path
) -> None:
    network, domain = layers.maximum(4, 3, 1, 2.0, 0.02), layers.ordered(4, 1)
    save_network(tmp_path / "network", network, domain)
    read, order = read_network(tmp_path / "network")
    assert (read.hash, order.hash) == (network.hash, domain.hash)
    result = prove(tmp_path / "network", tmp_path / "certificate", options)
    assert result.truth.accuracy >= result.verification.accuracy > 0.5
    again = verify(tmp_path / "certificate", network=network_hash(tmp_path / "network"), arb=True)
    assert again.holds
    assert again.balls > 0
    assert again.pinned == ("network",)
    assert (again.accuracy_vacuous, again.cross_entropy) == (False, None)
    assert "sequences of 3 out of 4 tokens" in str(again.subject)


def test_balls_object_to_groups_that_are_wrong() -> None:
    from crossproof.proof.certificate.verifier.balls_attention import check_groups

    draft = drafts(layers.random_layer(4, 3, 3, 2, 0))[0]
    problem = attention.read(as_certificate(draft), Limits())
    grouped = list(attention.evaluate(Arithmetic(), problem))
    everything = [(q, replace(g, below=np.full_like(g.below, g.label))) for q, g in grouped]
    with pytest.raises(CrossproofError, match="does not confirm"):
        check_groups(problem.weights, everything)


def test_an_exponential_may_be_off_by_what_its_argument_is() -> None:
    for error in (0.0, 1e-12, 5e-3):
        assert circuits.relative_error(error, 4) >= np.expm1(error) + 64 * 2.0**-53
    assert circuits.relative_error(2e-2, 4) == np.inf
    assert circuits.relative_error(0.0, 5) == (64 + 16 * 5) * UNIT * UP


def test_a_charged_gap_carries_its_own_rounding() -> None:
    table = np.zeros((1, 2, 2))
    flat = circuits.Circuits(table, table, 0.0, table, table[0], 0.0)
    gaps, none = attention.Gaps(Arithmetic(), flat, 0.0, True), np.zeros(1)
    for gap in (1.0, -1.0):
        assert gaps._charged(np.array([[gap]]), none, none) == gap - 4 * UNIT


def test_options_of_other_kinds_are_refused() -> None:
    network, domain = layers.maximum(4, 3), layers.ordered(4)
    with pytest.raises(CrossproofError, match="kind 'attention' or 'sequences'"):
        attention_draft(network, domain, ProverOptions(kind="boxes"))
    with pytest.raises(CrossproofError, match="need no dictionary"):
        attention_draft(network, domain, ProverOptions(kind="sequences"), parts_of(network))
    with pytest.raises(CrossproofError, match="not one of the network's 4"):
        attention_draft(network, layers.ordered(5), ProverOptions())
