"""Certificates for multiplication in groups: below the exact bound, which is below the truth."""

from __future__ import annotations

import itertools
import tracemalloc
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import exact_checker as exact
import hostile
import numpy as np
import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.proof.bounds import GroupDomain, Network, read_network, save_network
from crossproof.proof.certificate import judge, prove, verify
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.provers.pairs import effects
from crossproof.proof.certificate.provers.products import (
    best_products,
    components,
    products_draft,
)
from crossproof.proof.certificate.verifier import products
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.writer import Draft, as_certificate


def permutations(n: int) -> np.ndarray:
    """The symmetric group on n letters."""
    elements = list(itertools.permutations(range(n)))
    return np.array([[elements.index(tuple(a[i] for i in b)) for b in elements] for a in elements])


def quaternions() -> np.ndarray:
    """±1, ±i, ±j, ±k: element 2u + s is unit u with sign s."""
    unit = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    sign = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]])
    number = np.arange(8)
    u, s = number // 2, number % 2
    return 2 * unit[u[:, None], u] + (s[:, None] + s + sign[u[:, None], u]) % 2


GROUPS = {"S3": permutations(3), "Q8": quaternions()}
TABLES = GROUPS | {"C4": np.add.outer(np.arange(4), np.arange(4)) % 4}


def table_network(
    table: np.ndarray, noise: float, seed: int = 0, pure: bool = False
) -> tuple[Network, GroupDomain]:
    """A neuron a pair, which writes the pair's product; `noise` spoils it.

    `pure`: a neuron a pair and component, which writes the product's part in it.
    """
    g, p = np.random.default_rng(seed), len(table)
    a, b = np.divmod(np.arange(p * p), p)
    left, right = np.eye(p, 2 * p), np.eye(p, 2 * p, p)
    W_in = np.concatenate([np.eye(p)[:, a], np.eye(p)[:, b]])
    W_out = np.eye(p)[table[a, b]]
    if pure:
        bases = [basis for basis in components(table) if abs(basis.sum()) < 1e-6]
        W_out = np.concatenate([W_out @ basis.T @ basis for basis in bases])
        W_in = np.concatenate([W_in] * len(bases), axis=1)

    def spoiled(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array + noise * g.standard_normal(array.shape)).float().double()

    network = Network(
        spoiled(W_in), spoiled(np.full(W_in.shape[1], -1.0)), spoiled(W_out), spoiled(np.zeros(p)),
        spoiled(np.zeros((2 * p, p))),
    )  # fmt: skip
    return network, GroupDomain(spoiled(left), spoiled(right), torch.from_numpy(table))


def draft_of(name: str, noise: float, left_out: float, seed: int = 0) -> Draft:
    network, domain = table_network(TABLES[name], noise, seed)
    return products_draft(network, domain, effects(network, domain), left_out)


def lows(draft: Draft) -> np.ndarray:
    """The verifier's margins [p, p, V]; 0 at the label."""
    count, problem = Arithmetic(), products.read(as_certificate(draft), Limits())
    tables, blocks = products.build_tables(count, problem), products.build_blocks(count, problem)
    p = len(problem.left)
    return np.stack([products.margins(count, problem, tables, blocks, a).low for a in range(p)])


def exact_margins(draft: Draft) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Of the bound and of the network, by (a, b, class), in fractions."""
    found, p, table = hostile.exact(draft), len(draft.domain["table"]), draft.domain["table"]
    where = [
        (a, b, c)
        for a, b in itertools.product(range(p), repeat=2)
        for c in exact.others(int(table[a, b]), p)
    ]
    both = (itertools.chain.from_iterable(rows) for rows in (found.margins, found.truth))
    bound, truth = (
        dict(zip(where, (margin.decimal for margin in margins), strict=True)) for margins in both
    )
    return bound, truth


def lies(draft: Draft, seed: int) -> Draft:
    g = np.random.default_rng(seed)
    proof: dict[str, Any] = dict(draft.proof)
    for name in ("left", "right", "sum", "difference"):
        effect = proof[f"effect_{name}"]
        proof[f"effect_{name}"] = effect + g.standard_normal(effect.shape)
    proof["owners"] = g.permutation(proof["owners"])
    proof["scale"] = g.integers(-3, 4, len(proof["scale"]))
    assert draft.dictionary is not None
    atoms = draft.dictionary["atoms"] + 0.3 * g.standard_normal(draft.dictionary["atoms"].shape)
    return replace(draft, proof=proof, dictionary={"atoms": atoms})


@pytest.mark.parametrize(
    ("name", "seed"), [("C4", 0), pytest.param("S3", 1, marks=pytest.mark.slow)]
)
def test_every_margin_is_below_what_is_exact(name: str, seed: int) -> None:
    honest = draft_of(name, 0.05, 0.1, seed)
    for draft in (honest, lies(honest, seed)):
        (bound, truth), low = exact_margins(draft), lows(draft)
        for (a, b, c), margin in bound.items():
            assert Decimal(low[a, b, c]) <= truth[a, b, c]
            assert low[a, b, c] <= float(margin) + 1e-14  # coefficients may be an ulp apart
            assert low[a, b, c] >= float(margin) - 1e-10 * (1 + abs(float(margin)))


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_accuracy_is_below_and_cross_entropy_above_brute_force(name: str, noise: float) -> None:
    network, domain = table_network(GROUPS[name], noise, pure=True)
    logits, labels = network.logits(domain.inputs()), domain.labels()
    best = best_products(network, domain)
    for draft in (best, lies(best, 0)):
        verdict = judge(as_certificate(draft))
        assert verdict.accuracy <= (logits.argmax(1) == labels).double().mean()
        assert verdict.cross_entropy is not None
        assert verdict.cross_entropy >= torch.nn.functional.cross_entropy(logits, labels)
    assert judge(as_certificate(best)).accuracy == 1 or noise > 0


@pytest.mark.parametrize(
    ("where", "name", "wrong"),
    [
        (products, "distances", lambda count, rows: count.exact(np.zeros((4, 4)))),
        (Arithmetic, "norm", lambda self, of: self.exact(0 * of.value[..., :1])),
    ],
)
def test_mutants_certify_what_is_false(
    where: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge left out."""
    honest = draft_of("C4", 0.05, 0.1, 3)
    drafts = [honest, lies(honest, 3)]
    truths = [exact_margins(draft)[1] for draft in drafts]
    monkeypatch.setattr(where, name, wrong)
    assert any(
        Decimal(low[a, b, c]) > margin
        for low, truth in zip(map(lows, drafts), truths, strict=True)
        for (a, b, c), margin in truth.items()
    )


def test_components_are_those_of_the_group() -> None:
    for name, dimensions in {"S3": [1, 1, 4], "Q8": [1, 1, 1, 1, 4]}.items():
        table, bases = GROUPS[name], components(GROUPS[name])
        assert sorted(map(len, bases)) == dimensions
        whole = np.concatenate(bases)
        assert np.allclose(whole @ whole.T, np.eye(len(table)))
        for basis in bases:
            for translated in (basis[:, table[1]], basis[:, table[:, 1]]):
                assert np.allclose(translated @ basis.T @ basis, translated)


NOT_GROUPS = {
    "neutral": np.array([[1, 0], [1, 0]]),
    "inverses": np.array([[0, 1], [1, 1]]),
    "associative": np.array(
        [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]
    ),
}


@pytest.mark.parametrize("message", NOT_GROUPS)
def test_what_is_no_group_is_refused(message: str) -> None:
    table = NOT_GROUPS[message]
    with pytest.raises(CrossproofError, match=message):
        products.quotients(table)
    some = torch.zeros(len(table), 3, dtype=torch.float64)
    with pytest.raises(CrossproofError, match=message):
        GroupDomain(some, some, torch.from_numpy(table))


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("proof", "blocks", np.zeros(1, np.int64), "between 1 and"),
        ("proof", "owners", np.full(36, 9), "between 0 and"),
        ("proof", "scale", np.full(36, 41), "between -40 and 40"),
        ("domain", "table", np.full((6, 6), 6), "between 0 and 5"),
        ("domain", "table", np.roll(GROUPS["S3"], 1, axis=1), "not that of a group"),
        ("domain", "table", np.zeros((6, 5), np.int64), "needed with"),
    ],
)
def test_what_does_not_fit_is_refused(part: str, name: str, value: Any, message: str) -> None:
    draft = draft_of("S3", 0.0, 0.0)
    if name == "blocks":
        value = np.zeros_like(draft.proof["blocks"])
    with pytest.raises(CrossproofError, match=message):
        judge(as_certificate(replace(draft, **{part: dict(getattr(draft, part)) | {name: value}})))


@pytest.mark.parametrize("name", GROUPS)
def test_no_more_is_used_than_was_asked_for(name: str) -> None:
    certificate, asked = as_certificate(draft_of(name, 0.1, 0.3)), list[tuple[int, int]]()

    class Asking(Limits):
        def check(self, memory: int = 0, operations: int = 0) -> None:
            asked.append((memory, operations))

    products.read(certificate, Asking())
    (memory, operations) = asked[-1]
    tracemalloc.start()
    verdict = judge(certificate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert certificate.memory + peak <= memory + 500_000
    assert verdict.operations <= operations <= 4 * verdict.operations
    assert (memory, operations, verdict.operations, verdict.brute_force) == {
        "S3": (94_680, 121_536, 64_446, 32_400),
        "Q8": (209_944, 342_464, 185_560, 115_712),
    }[name]  # they change on purpose only


def test_a_folder_is_proved_and_verified_again_in_balls(tmp_path: Path) -> None:
    network, domain = table_network(GROUPS["S3"], 0.01, pure=True)
    save_network(tmp_path / "network", network, domain)
    read, again = read_network(tmp_path / "network")
    assert (read.hash, again.hash) == (network.hash, domain.hash)
    result = prove(tmp_path / "network", tmp_path / "certificate")
    assert result.truth.accuracy == result.verification.accuracy == 1
    verdict = verify(tmp_path / "certificate", arb=True)
    assert verdict.holds
    assert verdict.balls == 36
    assert "all 36 pairs of a group of 6 elements" in str(verdict.subject)


def test_balls_object_to_margins_that_are_not_there() -> None:
    from crossproof.proof.certificate.verifier.balls_products import check_products

    problem = products.read(as_certificate(draft_of("S3", 0.5, 0.5)), Limits())
    with pytest.raises(CrossproofError, match="does not confirm"):
        check_products(problem, np.ones((6, 6)), np.full((6, 6), 1e3))
    with pytest.raises(CrossproofError, match="cross-entropy"):
        check_products(problem, -np.ones((6, 6)), np.full((6, 6), 1e-9))


def test_other_classes_are_refused() -> None:
    network, domain = table_network(GROUPS["S3"], 0.0)
    fewer = replace(
        network, W_out=network.W_out[:, :5], b_out=network.b_out[:5], skip=network.skip[:, :5]
    )
    with pytest.raises(CrossproofError, match="does not multiply 6 elements"):
        products_draft(fewer, domain, effects(network, domain), 0.0)
    draft = draft_of("S3", 0.0, 0.0)
    small = dict(draft.network) | {
        "W_out": draft.network["W_out"][:, :5],
        "b_out": draft.network["b_out"][:5],
        "skip": draft.network["skip"][:, :5],
    }
    with pytest.raises(CrossproofError, match="6 classes, not 5"):
        judge(as_certificate(replace(draft, network=small)))


@pytest.mark.parametrize("owned", [[1, 1, 1], [1, 2, 2]])
def test_rows_of_a_block_without_atoms_are_left_over_whole(owned: list[int]) -> None:
    """Block 1 has none: its neurons are as those of no block."""
    draft = draft_of("C4", 0.05, 0.0)
    proof = {**draft.proof, "blocks": np.full_like(draft.proof["blocks"], 2)}
    owners = np.resize(owned, len(proof["owners"]))
    without, none = (
        judge(as_certificate(replace(draft, proof={**proof, "owners": each})), arb=True)
        for each in (owners, np.where(owners == 1, 0, owners))
    )
    assert (without.accuracy, without.cross_entropy) == (none.accuracy, none.cross_entropy)
    assert without.balls == 16
