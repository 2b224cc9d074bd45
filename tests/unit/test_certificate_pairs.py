"""Certificates for addition modulo p: sound against brute force, compact, robust to lies."""

from __future__ import annotations

import math
from dataclasses import replace

import certificates as small
import numpy as np
import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network, PairDomain
from crossproof.proof.certificate.cost import brute_force, brute_force_pairs
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.provers.pairs import best_draft, effects, pairs_draft
from crossproof.proof.certificate.verifier import pairs
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate


def margins_of(draft: Draft, a: int) -> np.ndarray:
    count, problem = Arithmetic(), pairs.read(as_certificate(draft), Limits())
    tables = pairs.build_tables(count, problem)
    return pairs.margins(count, problem, tables, pairs.build_blocks(count, problem), a).low


def all_true_margins(network: Network, domain: PairDomain) -> np.ndarray:
    margins = small.true_margins(network, domain.inputs(), domain.labels())
    return margins.reshape(domain.p, domain.p, -1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_every_margin_is_below_the_true_one(seed: int, blocks: int) -> None:
    network, domain = small.modular(11, (1, 3), 6, noise=0.1, seed=seed)
    draft = pairs_draft(network, domain, effects(network, domain), blocks)
    truth = all_true_margins(network, domain)
    for a in range(11):
        assert (margins_of(draft, a) <= truth[a]).all()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_accuracy_is_below_and_cross_entropy_above_brute_force(noise: float) -> None:
    network, domain = small.modular(13, (1, 2, 5), 8, noise=noise)
    truth = small.truth(network, domain.inputs(), domain.labels())
    verdict = judge(as_certificate(best_draft(network, domain)))
    assert verdict.accuracy <= truth.accuracy
    assert verdict.cross_entropy is not None
    assert verdict.cross_entropy >= truth.cross_entropy
    if noise == 0.0:
        assert not verdict.accuracy_vacuous
        assert verdict.accuracy > 0.99


def test_a_network_without_interaction_is_certified_exactly() -> None:
    """All neurons read the first summand only: nothing is left to charge."""
    network, domain = small.modular(7, (1, 2), 5, noise=0.2)
    domain = replace(domain, right=torch.zeros_like(domain.right))
    found = effects(network, domain)
    exact = {"left": torch.relu(domain.left @ network.W_in + network.b_in).numpy()}
    nothing = np.zeros_like(exact["left"])
    tables = {name: exact.get(name, nothing) for name in found.tables}
    draft = pairs_draft(network, domain, replace(found, tables=tables), 0)
    scale = np.zeros_like(draft.proof["scale"])
    proof = {f"effect_{name}": table for name, table in tables.items()}
    verdict = judge(as_certificate(small.with_proof(draft, scale=scale, **proof)))
    truth = small.truth(network, domain.inputs(), domain.labels())
    assert verdict.accuracy == pytest.approx(truth.accuracy, abs=1e-12)
    assert verdict.cross_entropy == pytest.approx(truth.cross_entropy, rel=1e-7)


def test_the_certificate_is_compact_and_not_vacuous_at_113() -> None:
    network, domain = small.modular(113, (3, 17, 25, 40, 52, 31, 9, 47), 16, noise=0.02)
    found = effects(network, domain)
    verdict = judge(as_certificate(pairs_draft(network, domain, found, 3)))
    assert verdict.brute_force is not None
    assert verdict.brute_force >= 3 * verdict.operations
    truth = brute_force_pairs(network, domain)
    assert verdict.accuracy > 0.9
    assert verdict.accuracy <= truth.accuracy
    assert verdict.cross_entropy is not None
    assert truth.cross_entropy <= verdict.cross_entropy < math.log(113)


@pytest.mark.parametrize("skip", [0.0, 0.1])
def test_brute_force_is_counted_as_the_formula_says(skip: float) -> None:
    network, domain = small.modular(7, (1, 2), 5, noise=0.1)
    network = replace(network, skip=single_skip(network, skip))
    verdict = judge(as_certificate(pairs_draft(network, domain, effects(network, domain), 1)))
    counted = brute_force_pairs(network, domain)
    assert counted.cost.operations == verdict.brute_force
    listed = brute_force(network, domain.inputs(), domain.labels())
    assert counted.accuracy == listed.accuracy
    assert counted.cross_entropy == pytest.approx(listed.cross_entropy, rel=1e-12)


def single_skip(network: Network, scale: float) -> torch.Tensor:
    return small.single(scale * torch.randn(network.skip.shape, generator=small.draws(1)))


@pytest.mark.parametrize("lie", ["effects", "owners", "scale", "huge"])
def test_lies_only_loosen(lie: str) -> None:
    network, domain = small.modular(11, (1, 3), 6, noise=0.05)
    draft = pairs_draft(network, domain, effects(network, domain), 2)
    honest = judge(as_certificate(draft))
    generator = np.random.default_rng(0)
    N = len(draft.proof["owners"])
    changes = {
        "effects": {"effect_sum": draft.proof["effect_sum"] + 0.3},
        "owners": {"owners": generator.integers(0, 6, N)},
        "scale": {"scale": generator.integers(-30, 30, N)},
        "huge": {"effect_left": np.full_like(draft.proof["effect_left"], 1e29)},
    }
    lied = small.with_proof(draft, **changes[lie])
    verdict = judge(as_certificate(lied))
    truth = all_true_margins(network, domain)
    for a in range(11):
        low = margins_of(lied, a)
        assert not (low > truth[a]).any()
    assert verdict.accuracy <= honest.accuracy
    if lie == "huge":
        assert verdict.accuracy == 0


def test_rescaling_neurons_by_powers_of_two_tightens_what_it_should() -> None:
    """A neuron with a large output row and a small interaction no longer dominates the charge."""
    network, domain = small.modular(11, (1, 3), 6, noise=0.05)
    loud = torch.ones(12, dtype=torch.float64)
    loud[:6] = 64.0
    uneven = replace(network, W_in=network.W_in / loud, W_out=network.W_out * loud[:, None])
    draft = pairs_draft(uneven, domain, effects(uneven, domain), 2)
    scaled, flat = margins_of(draft, 3), None
    plain = effects(uneven, domain)
    tables = {f"effect_{k}": table for k, table in plain.tables.items()}
    flat = margins_of(small.with_proof(draft, scale=0 * draft.proof["scale"], **tables), 3)
    assert (scaled >= flat - 1e-4).all()
    assert (scaled > flat + 0.5).any()


def test_a_label_that_is_not_the_sum_is_not_certified() -> None:
    """A network that always adds one more is wrong everywhere, however clear its margins."""
    network, domain = small.modular(11, (1, 2, 3), 8)
    shifted = replace(network, W_out=network.W_out.roll(1, dims=1))
    assert judge(as_certificate(best_draft(network, domain))).accuracy > 0.9
    assert judge(as_certificate(best_draft(shifted, domain))).accuracy == 0


def test_ball_arithmetic_confirms_all_pairs_of_a_small_certificate() -> None:
    network, domain = small.modular(7, (1, 2), 8, noise=0.05)
    draft = pairs_draft(network, domain, effects(network, domain), 1)
    verdict = judge(as_certificate(draft), arb=True)
    assert verdict.balls == verdict.ball_groups == 49
    assert verdict.right > 10


def test_a_network_of_other_classes_is_refused() -> None:
    network, _ = small.modular(7, (1, 2), 4)
    _, domain = small.modular(11, (1, 2), 4)
    with pytest.raises(CrossproofError, match="does not add modulo 11"):
        pairs_draft(network, domain, effects(network, domain), 1)
