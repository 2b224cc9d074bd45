"""Certificates over a continuum: bounds, the split tree, masses, and lies about them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import certificates as small
import numpy as np
import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import Network, SparseDomain
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.provers.boxes import boxes_draft
from crossproof.proof.certificate.provers.latents import (
    AffineLatents,
    fitted_latents,
    generating_latents,
)
from crossproof.proof.certificate.verifier import boxes
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.enclosures import Boxes
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate


def inside(low: np.ndarray, high: np.ndarray, seed: int = 0, count: int = 60) -> np.ndarray:
    """Points of a box, all corners and the centre first."""
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    unit = np.random.default_rng(seed).random((count, len(low)))
    return np.concatenate([corners, [(low + high) / 2], low + unit * (high - low)])


def margins_at(
    network: Network, domain: SparseDomain, number: int, at: np.ndarray, label: int
) -> np.ndarray:
    activations = torch.zeros(len(at), len(domain.low), dtype=torch.float64)
    activations[:, domain.active_sets[number]] = torch.from_numpy(at)
    labels = torch.full((len(at),), label)
    return small.true_margins(network, domain.inputs(activations), labels)


def random_boxes(domain: SparseDomain, count: int, seed: int) -> tuple[np.ndarray, ...]:
    g = np.random.default_rng(seed)
    sets = g.integers(0, domain.n_sets, count)
    active = domain.active_sets.numpy()[sets]
    low, high = domain.low.numpy()[active], domain.high.numpy()[active]
    ends = np.sort(g.random((2, *low.shape)) ** g.choice([1.0, 8.0], (count, 1)), axis=0)
    return sets, active, low + ends[0] * (high - low), low + ends[1] * (high - low)


def dictionaries(domain: SparseDomain, seed: int) -> list[AffineLatents]:
    signed = small.learned_like(domain, 2, 0.05, seed)
    signed.offset.sub_(0.6)  # latents below zero: no corners
    return [
        generating_latents(domain),
        small.learned_like(domain, 2, 0.05, seed),
        small.learned_like(domain, 3, 0.05, seed),
        small.learned_like(domain, 1, 0.5, seed),
        signed,
    ]


def all_bounds(prover: boxes.Prover, batch: Boxes) -> dict[str, np.ndarray]:
    return {
        "interval": prover.enclosures.interval(batch).low,
        "linear": prover.enclosures.linear(batch).low,
        "additive": prover.additive.margins(batch).low,
    }


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("seed", range(2))
def test_every_bound_is_below_all_margins_inside_the_box(K: int, seed: int) -> None:
    network, domain = small.sparse(K=K, seed=seed, noise=1.0)
    sets, active, low, high = random_boxes(domain, 12, seed)
    at = [inside(*ends, seed) for ends in zip(low, high, strict=True)]
    truth = np.array(
        [
            [
                margins_at(network, domain, n, x, y).min(axis=0)
                for n, x in zip(sets, at, strict=True)
            ]
            for y in range(3)
        ]
    )
    for latents in dictionaries(domain, seed):
        draft = boxes_draft(network, domain, latents, nodes=1)
        prover = boxes.Prover(Arithmetic(), boxes.read(as_certificate(draft), Limits()))
        for label in range(3):
            for name, bound in all_bounds(prover, Boxes(sets, active, low, high, label)).items():
                assert (np.delete(bound - truth[label], label, axis=1) <= 0).all(), name


def relaxed_by_hand(
    network: Network, domain: SparseDomain, number: int, low: np.ndarray, high: np.ndarray, y: int
) -> dict[str, np.ndarray]:
    """Interval arithmetic and a backward affine relaxation, neuron by neuron and class by class."""
    net = {name: tensor.numpy() for name, tensor in network.tensors().items()}
    decoder, bias = domain.decoder.numpy()[domain.active_sets[number]], domain.bias.numpy()
    K, N, V = len(decoder), len(net["b_in"]), len(net["b_out"])
    interval, linear = np.empty(V), np.empty(V)
    for c in range(V):
        skip = net["skip"][:, y] - net["skip"][:, c]
        constant = bias @ skip + net["b_out"][y] - net["b_out"][c]
        slopes = [decoder[j] @ skip for j in range(K)]
        by_interval = constant + sum(min(s * low[j], s * high[j]) for j, s in enumerate(slopes))
        for n in range(N):
            gap = net["W_out"][n, y] - net["W_out"][n, c]
            g = [decoder[j] @ net["W_in"][:, n] for j in range(K)]
            base = bias @ net["W_in"][:, n] + net["b_in"][n]
            lowest = base + sum(min(g[j] * low[j], g[j] * high[j]) for j in range(K))
            highest = base + sum(max(g[j] * low[j], g[j] * high[j]) for j in range(K))
            by_interval += min(gap * max(lowest, 0), gap * max(highest, 0))
            if lowest >= 0 or highest <= 0:
                slope, lift = float(lowest >= 0), 0.0
            elif gap > 0:  # from below: z or 0, whichever leaves less
                slope, lift = float(highest >= -lowest), 0.0
            else:  # from above: the chord
                slope = highest / (highest - lowest)
                lift = -slope * lowest
            constant += gap * (slope * base + lift)
            slopes = [s + gap * slope * g[j] for j, s in enumerate(slopes)]
        interval[c] = by_interval
        linear[c] = constant + sum(min(s * low[j], s * high[j]) for j, s in enumerate(slopes))
    return {"interval": interval, "linear": linear}


@pytest.mark.parametrize("seed", range(3))
def test_interval_and_affine_bounds_equal_those_written_by_hand(seed: int) -> None:
    """An independent reference, loop by loop: what a tool for such bounds would compute."""
    network, domain = small.sparse(K=2, seed=seed, noise=1.0)
    draft = boxes_draft(network, domain, generating_latents(domain), nodes=1)
    prover = boxes.Prover(Arithmetic(), boxes.read(as_certificate(draft), Limits()))
    sets, active, low, high = random_boxes(domain, 12, seed)
    for label in range(3):
        ours = all_bounds(prover, Boxes(sets, active, low, high, label))
        for row, number in enumerate(sets.tolist()):
            theirs = relaxed_by_hand(network, domain, number, low[row], high[row], label)
            for name, expected in theirs.items():
                np.testing.assert_allclose(ours[name][row], expected, rtol=1e-9, atol=1e-9)


def test_two_features_without_residual_converge_to_the_truth() -> None:
    """On boxes of no width every bound is the margin itself (T2.3: exact corners)."""
    network, domain = small.sparse(noise=1.0)
    draft = boxes_draft(network, domain, generating_latents(domain), nodes=1)
    prover = boxes.Prover(Arithmetic(), boxes.read(as_certificate(draft), Limits()))
    sets, active, low, _ = random_boxes(domain, 10, 0)
    batch = Boxes(sets, active, low, low + 1e-12, 1)
    exact = np.concatenate(
        [margins_at(network, domain, n, low[i : i + 1], 1) for i, n in enumerate(sets.tolist())]
    )
    for ours in all_bounds(prover, batch).values():
        ours[:, 1] = np.inf
        np.testing.assert_allclose(ours, exact, atol=1e-9)


@pytest.mark.parametrize("bound", [("additive",), ("linear",), boxes.BOUNDS])
def test_certified_boxes_hold_everywhere_and_mass_stays_below_the_truth(
    bound: tuple[str, ...],
) -> None:
    network, domain = small.sparse(seed=3, noise=0.8)
    latents = small.learned_like(domain, 2, 0.01)
    draft = boxes_draft(network, domain, latents, nodes=1500, bounds=bound)
    problem = boxes.read(as_certificate(draft), Limits())
    proved, leaves = boxes.evaluate(Arithmetic(), problem), boxes.leaves(problem)
    assert leaves.mass.sum() == pytest.approx(1, rel=1e-9)
    assert (leaves.mass.sum()) < 1
    for leaf in proved.leaves[:200].tolist():
        at = inside(leaves.low[leaf], leaves.high[leaf], leaf, 10)
        activations = torch.zeros(len(at), 5, dtype=torch.float64)
        activations[:, domain.active_sets[leaves.sets[leaf]]] = torch.from_numpy(at)
        labels = domain.labels(activations)
        assert (labels == labels[0]).all()
        assert (network.logits(domain.inputs(activations)).argmax(1) == labels).all()
    activations, labels = domain.sample(4000, small.draws(0))
    truth = small.truth(network, domain.inputs(activations), labels).accuracy
    assert 0.3 < proved.accuracy < truth + 0.03


def test_more_boxes_prove_more_and_the_true_network_is_proved_nearly_whole() -> None:
    network, domain = small.sparse(noise=0.0)
    latents = generating_latents(domain)
    shares = [
        judge(as_certificate(boxes_draft(network, domain, latents, nodes=nodes))).accuracy
        for nodes in (10, 100, 3000)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 0.95


def grown(domain: SparseDomain, codes: list[int]) -> np.ndarray:
    """The same tree in every set."""
    return np.array(codes * domain.n_sets, dtype=np.int64)


@pytest.fixture(scope="module")
def case() -> tuple[Network, SparseDomain, Draft]:
    network, domain = small.sparse(seed=2, noise=0.5)
    return network, domain, boxes_draft(network, domain, generating_latents(domain), nodes=400)


@pytest.mark.parametrize(
    ("codes", "complaint"),
    [
        ([-1, 1], "in the middle of a tree"),
        ([1, 1], "goes on after the last tree"),
        ([-3, 1, 1], "between -2 and 3"),
        ([4], "between -2 and 3"),
        ([-1] * 70 + [1] * 71, "cannot be halved"),
    ],
)
def test_trees_that_are_not_trees_are_refused(
    case: tuple[Network, SparseDomain, Draft], codes: list[int], complaint: str
) -> None:
    _, domain, draft = case
    with pytest.raises(CrossproofError, match=complaint):
        judge(as_certificate(small.with_proof(draft, tree=grown(domain, codes))))


@pytest.mark.parametrize("code", [1, 2, 3])
def test_claiming_everything_proves_only_what_is_true(
    case: tuple[Network, SparseDomain, Draft], code: int
) -> None:
    """All leaves claim to be proved: the verifier keeps those that are."""
    network, domain, draft = case
    claims = np.where(draft.proof["tree"] >= 0, code, draft.proof["tree"])
    lied = small.with_proof(draft, tree=claims)
    activations, labels = domain.sample(4000, small.draws(1))
    truth = small.truth(network, domain.inputs(activations), labels).accuracy
    assert judge(as_certificate(lied)).accuracy < truth + 0.03
    whole = small.with_proof(draft, tree=grown(domain, [code]))
    assert judge(as_certificate(whole)).accuracy < 1


def test_masses_are_shares_of_the_sets_boxes(case: tuple[Network, SparseDomain, Draft]) -> None:
    _, domain, draft = case
    problem = boxes.read(
        as_certificate(small.with_proof(draft, tree=grown(domain, [-1, 0, -2, 0, 0]))), Limits()
    )
    leaves = boxes.leaves(problem)
    np.testing.assert_allclose(leaves.mass, [0.05, 0.025, 0.025] * 10, rtol=1e-9)
    first, second, third = (slice(i, None, 3) for i in range(3))
    assert (leaves.high[first, 0] == leaves.low[second, 0]).all()
    assert (leaves.high[second, 1] == leaves.low[third, 1]).all()


@pytest.mark.parametrize("lie", ["slopes", "offset", "index", "atoms"])
def test_lies_about_latents_only_loosen(lie: str) -> None:
    network, domain = small.sparse(seed=2, noise=0.5)
    honest = generating_latents(domain)
    draft = boxes_draft(network, domain, honest, nodes=600, bounds=("additive",))
    before = judge(as_certificate(draft)).accuracy
    assert draft.dictionary is not None
    proof, dictionary = dict(draft.proof), dict(draft.dictionary)
    if lie == "atoms":
        dictionary["atoms"] = 2 * dictionary["atoms"]
    elif lie == "slopes":
        proof["latent_slopes"] = 1.5 * proof["latent_slopes"]
    elif lie == "offset":
        proof["latent_offset"] = proof["latent_offset"] + 0.5
    else:
        proof["latent_index"] = (proof["latent_index"] + 1) % 5
    lied = replace(draft, proof=proof, dictionary=dictionary)
    assert judge(as_certificate(lied)).accuracy < before


def test_features_of_one_value_are_never_split() -> None:
    network, domain = small.sparse(seed=1)
    domain.high[0] = domain.low[0]
    draft = boxes_draft(network, domain, generating_latents(domain), nodes=500)
    verdict = judge(as_certificate(draft))
    assert 0.3 < verdict.accuracy < 1
    split = grown(domain, [-1, 0, 0])
    with pytest.raises(CrossproofError, match="cannot be halved"):
        judge(as_certificate(small.with_proof(draft, tree=split)))


def test_ball_arithmetic_confirms_leaves_of_every_bound() -> None:
    network, domain = small.sparse(seed=2, noise=0.8)
    for latents in dictionaries(domain, 0)[:3]:
        for bound in boxes.BOUNDS:
            draft = boxes_draft(network, domain, latents, nodes=40, bounds=(bound,))
            verdict = judge(as_certificate(draft), arb=True)
            claimed = int((draft.proof["tree"] > 0).sum())
            assert verdict.balls == min(claimed, 64)


def test_a_fitted_dictionary_finds_the_generating_features() -> None:
    network, domain = small.sparse(noise=0.5)
    domain.low.add_(0.25)

    def encode(x: torch.Tensor) -> torch.Tensor:
        return torch.relu((x - domain.bias) @ torch.linalg.pinv(domain.decoder) - 1e-6)

    fitted = fitted_latents(domain, domain.decoder, domain.bias, encode, most=2)
    assert (fitted.index.sort(dim=1).values == domain.active_sets).all()
    draft = boxes_draft(network, domain, fitted, nodes=800, bounds=("additive",))
    exact = boxes_draft(
        network, domain, generating_latents(domain), nodes=800, bounds=("additive",)
    )
    ours, best = (judge(as_certificate(d)).accuracy for d in (draft, exact))
    assert ours == pytest.approx(best, abs=0.02)


def test_an_unknown_bound_is_refused() -> None:
    network, domain = small.sparse()
    with pytest.raises(CrossproofError, match="no bound 'magic'"):
        boxes_draft(network, domain, generating_latents(domain), bounds=("magic",))
