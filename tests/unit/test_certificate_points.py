"""Certificates over a list of inputs: sound for any latents and dictionary, exact without error."""

from __future__ import annotations

from dataclasses import replace

import certificates as small
import numpy as np
import pytest
import torch

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.proof.certificate.cost import brute_force
from crossproof.proof.certificate.format import Limits
from crossproof.proof.certificate.provers.points import points_draft
from crossproof.proof.certificate.verifier import points
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.verdict import judge
from crossproof.proof.certificate.writer import Draft, as_certificate


def margins_of(draft: Draft) -> np.ndarray:
    problem = points.read(as_certificate(draft), Limits())
    engine = points.PointsEngine(Arithmetic(), problem)
    found = np.empty((len(problem.labels), problem.weights.W_out.shape[1]))
    for label in np.unique(problem.labels):
        rows = np.flatnonzero(problem.labels == label)
        found[rows] = engine.margins(rows, int(label))
    return found


def dense_margins(draft: Draft, row: int) -> np.ndarray:
    """Both bounds from the theorems, by loops over neurons and classes; the better one."""
    net, proof = draft.network, draft.proof
    assert draft.dictionary is not None
    x, y = draft.domain["inputs"][row], draft.domain["labels"][row]
    mine = slice(proof["offsets"][row], proof["offsets"][row + 1])
    z = x @ net["W_in"] + net["b_in"]
    base = draft.dictionary["bias"] @ net["W_in"] + net["b_in"]
    straight = x @ net["skip"] + net["b_out"]
    bounds = {"dominant": straight[y] - straight, "additive": straight[y] - straight}
    for n in range(len(z)):
        G = draft.dictionary["atoms"][proof["indices"][mine]] @ net["W_in"][:, n]
        p = sorted(proof["values"][mine] * G, key=lambda part: -abs(part))
        kept, whole = base[n] + p[0], base[n] + sum(p)
        e = abs(z[n] - whole)
        slope = float(max(z[n], whole, kept) > 0)
        gap = net["W_out"][n, y] - net["W_out"][n]
        bounds["dominant"] += gap * max(kept, 0) - abs(gap) * slope * (e + abs(sum(p[1:])))
        hidden = max(base[n], 0) + sum(max(base[n] + q, 0) - max(base[n], 0) for q in p)
        low = base[n] + sum(min(q, 0) for q in p)
        high = base[n] + sum(max(q, 0) for q in p)
        terms = [
            np.sign(sum(p[:k]) * p[k]) * min(abs(sum(p[:k])), abs(p[k]))
            for k in range(1, len(p))
            if low < 0 < high
        ]
        less = sum(-min(term, 0) for term in terms) + e * float(max(z[n], whole) > 0)
        more = sum(max(term, 0) for term in terms) + e * float(max(z[n], whole) > 0)
        bounds["additive"] += gap * hidden - np.maximum(gap, 0) * less - np.maximum(-gap, 0) * more
    best = np.maximum(*bounds.values())
    best[y] = np.inf
    return best


@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_margins_are_those_of_the_theorems(noise: float, seed: int) -> None:
    network, domain = small.sparse(K=3, seed=seed)
    draft, _, _ = small.sample_draft(network, domain, 20, seed, noise)
    ours = margins_of(draft)
    for row in range(20):
        np.testing.assert_allclose(ours[row], dense_margins(draft, row), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("noise", [0.0, 0.02, 1.0, 30.0])
def test_every_margin_is_below_the_true_one(noise: float) -> None:
    for seed in range(3):
        network, domain = small.sparse(K=3, seed=seed, noise=1.0)
        draft, inputs, labels = small.sample_draft(network, domain, 40, seed, noise)
        assert (margins_of(draft) <= small.true_margins(network, inputs, labels)).all()


def test_accuracy_is_below_and_cross_entropy_above_brute_force() -> None:
    network, domain = small.sparse()
    draft, inputs, labels = small.sample_draft(network, domain, 200)
    truth, verdict = small.truth(network, inputs, labels), judge(as_certificate(draft))
    counted = brute_force(network, inputs, labels)
    assert 0 < verdict.accuracy <= truth.accuracy == counted.accuracy
    assert verdict.cross_entropy is not None
    assert verdict.cross_entropy >= truth.cross_entropy
    assert counted.cross_entropy == pytest.approx(truth.cross_entropy)
    assert counted.cost.operations == verdict.brute_force
    assert verdict.operations > counted.cost.operations  # an honest list is never cheap


def test_one_latent_without_residual_is_certified_exactly() -> None:
    network, domain = small.sparse(K=1, noise=1.0)
    draft, inputs, labels = small.sample_draft(network, domain, 300)
    truth, verdict = small.truth(network, inputs, labels), judge(as_certificate(draft))
    assert verdict.accuracy == pytest.approx(truth.accuracy, abs=1e-12)
    assert verdict.cross_entropy == pytest.approx(truth.cross_entropy, rel=1e-7)


def test_neurons_that_stay_on_are_additive_and_certified_exactly() -> None:
    network, domain = small.sparse(K=3)
    network = replace(network, b_in=network.b_in + 100)
    draft, inputs, labels = small.sample_draft(network, domain, 100)
    ours, truth = margins_of(draft), small.true_margins(network, inputs, labels)
    np.testing.assert_allclose(ours, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("lie", ["values", "indices", "atoms", "bias", "dropped"])
def test_lies_only_loosen(lie: str) -> None:
    network, domain = small.sparse(K=2)
    draft, inputs, labels = small.sample_draft(network, domain, 100)
    honest = judge(as_certificate(draft)).accuracy
    assert draft.dictionary is not None
    proof, dictionary = dict(draft.proof), dict(draft.dictionary)
    if lie == "values":
        proof["values"] = -3 * proof["values"]
    elif lie == "indices":
        proof["indices"] = (proof["indices"] + 1) % 5
    elif lie == "dropped":
        proof["offsets"] = np.minimum(proof["offsets"], 1)
        proof["offsets"][-1] = 1
        proof["indices"], proof["values"] = proof["indices"][:1], proof["values"][:1]
    else:
        dictionary[lie] = dictionary[lie] + 1.0
    lied = replace(draft, proof=proof, dictionary=dictionary)
    assert (margins_of(lied) <= small.true_margins(network, inputs, labels)).all()
    assert judge(as_certificate(lied)).accuracy <= honest


def test_ball_arithmetic_confirms_all_points_of_a_small_certificate() -> None:
    network, domain = small.sparse(K=3)
    draft, _, _ = small.sample_draft(network, domain, 40, noise=0.02)
    verdict = judge(as_certificate(draft), arb=True)
    assert verdict.balls == verdict.ball_groups == 40
    assert verdict.right > 10


def test_no_latents_at_all_is_a_certificate_too() -> None:
    network, domain = small.sparse()
    activations, labels = domain.sample(10, small.draws(0))
    inputs, nothing = domain.inputs(activations), SparseLatents.from_dense(torch.zeros(10, 5))
    draft = points_draft(network, inputs, labels, domain.decoder, domain.bias, nothing)
    assert (margins_of(draft) <= small.true_margins(network, inputs, labels)).all()


def test_latents_of_other_inputs_are_refused() -> None:
    network, domain = small.sparse()
    activations, labels = domain.sample(10, small.draws(0))
    latents = SparseLatents.from_dense(activations[:9])
    expected = "9 inputs and 5 decoder vectors do not fit 10 inputs"
    with pytest.raises(CrossproofError, match=expected):
        points_draft(
            network, domain.inputs(activations), labels, domain.decoder, domain.bias, latents
        )
