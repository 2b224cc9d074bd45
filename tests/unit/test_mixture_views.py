"""How mixtures of experts read a dictionary, against a dense gated MLP and brute force."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from dictionaries import F64, random_kind
from torch import Tensor

from crossproof import MLPPenalty, Objective
from crossproof.auditing.readings import read_batches
from crossproof.clusters.description import internal_interaction
from crossproof.clusters.preparing import MeasuredCrosscoder
from crossproof.clusters.run import cluster
from crossproof.clusters.settings import ClusterSettings, LatentChoice
from crossproof.clusters.similarities import second_differences
from crossproof.crosscoder import Crosscoder, encode_batches
from crossproof.crosscoder.layout import Layout
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.evaluation.games import language_model_game
from crossproof.evaluation.measure_run import MeasureOptions, measure
from crossproof.evaluation.pair_contexts import pair_examples
from crossproof.evaluation.pair_sums import tally_interactions
from crossproof.interactions.measuring import token_pairs
from crossproof.interactions.stream import TokenMixture
from crossproof.interactions.views import mlp_views, needs_of, read_by
from crossproof.lm import LanguageModel, load_model
from crossproof.proof.attribution.model_parts import model_parts
from crossproof.proof.certificate.provers.documents import Documents, Treatments, document_values
from crossproof.training.config import RunConfig
from crossproof.training.kinds import DictionaryPlan
from crossproof.training.specs import specified

PLACES = ("blocks.1.mlp.hook_in", "blocks.1.hook_resid_pre")
SLOWLY = [pytest.param(PLACES[0], marks=pytest.mark.slow), PLACES[1]]


def sae(model: LanguageModel, name: str) -> Crosscoder:
    return random_kind(model, [name], Layout.joint(12, 1), "topk")


SOME = [
    kind if kind == "qwen2-moe" else pytest.param(kind, marks=pytest.mark.slow)
    for kind in tiny_models.MIXTURES
]


@pytest.fixture(scope="module", params=SOME)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    torch.manual_seed(0)
    return load_model(tiny_models.MIXTURES[request.param]().double())


def neurons(model: LanguageModel, batch: object, seen: TokenMixture, place: str) -> Tensor:
    """I of each token, neuron by neuron from the definition, with ‖o_n‖ times the router's weight.

    At frozen routing: T3 with the dominant latent chosen by |p_gate| + |p_linear|.
    """
    latents = batch.latents.dense()
    weights = model.mixture(1).route(batch.model_activations["blocks.1.mlp.hook_in"][batch.scored])
    total = torch.zeros(len(latents), dtype=F64)
    slope = 1.0998393194450765  # of SiLU
    for at, expert in enumerate(model.mixture(1).experts):
        for expert_view in seen.experts:
            dictionary = expert_view.view.dictionary
            if dictionary.mlp.n_neurons != expert.n_neurons or not torch.equal(
                dictionary.mlp.W_out, expert.W_out
            ):
                continue
            for row, token in enumerate(expert_view.tokens.tolist()):
                a = expert_view.view.latents.dense()[row]
                p, g = a[:, None] * dictionary.G, a[:, None] * dictionary.G_gate
                base = dictionary.of_tokens(torch.tensor([row])).baseline.reshape(-1, p.shape[1])[0]
                base_gate = dictionary.of_tokens(torch.tensor([row])).baseline_gate
                base_gate = base_gate.reshape(-1, p.shape[1])[0]
                size = p.abs() + g.abs()
                best = size.argmax(0)[None]
                dom, dom_gate = p.gather(0, best)[0], g.gather(0, best)[0]
                rest = p.abs().sum(0) - dom.abs()
                rest_gate = g.abs().sum(0) - dom_gate.abs()
                opening = torch.nn.functional.silu(base_gate + dom_gate).abs()
                charge = (
                    slope * (base + dom).abs() * rest_gate
                    + opening * rest
                    + slope * rest_gate * rest
                )
                norms = expert.W_out.norm(dim=1)
                total[token] += weights[token, at] * (charge @ norms)
    return total


@pytest.mark.parametrize("place", SLOWLY)
def test_each_expert_is_a_gated_mlp_weighed_by_the_router(place: str, model: LanguageModel) -> None:
    crosscoder = sae(model, place)
    views = mlp_views(model, crosscoder, (1,), mixtures=True)
    tokens = tiny_models.random_tokens(2, 7)
    (batch,) = encode_batches(
        model, crosscoder, tokens, 2, [*needs_of(views), "blocks.1.mlp.hook_out"]
    )
    seen = read_by(views, batch)[1]
    assert isinstance(seen, TokenMixture)
    if place == PLACES[1]:  # everything else exact: all latents give the model's own output
        whole = seen.added_by_name(
            lambda e: {"out": e.view.output(*e.view.dictionary.sums(e.view.latents))}
        )
        own = batch.model_activations["blocks.1.mlp.hook_out"][batch.scored]
        torch.testing.assert_close(whole["out"], own, rtol=1e-9, atol=1e-10)
    by_hand = neurons(model, batch, seen, place)
    totals = token_pairs(batch.latents, {1: seen}).token_totals()
    torch.testing.assert_close(totals["I"][:, 0], by_hand, rtol=1e-9, atol=1e-10)
    figures = evaluate(
        model, crosscoder, tokens, EvaluationOptions(resamples=5, patch_hookpoints=False, mlps=(1,))
    )
    assert figures.interaction == pytest.approx(float(by_hand.mean()), rel=1e-6)
    measured = measure(model, crosscoder, tokens, MeasureOptions(mlps=(1,), attention=False))
    assert measured.totals["I"].mean == pytest.approx(float(by_hand.mean()), rel=1e-6)
    assert measured.gated
    if place == PLACES[1]:
        assert figures.phi["none"]["exact_mid"].mean == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("place", SLOWLY)
def test_a_mixture_of_one_expert_is_the_dense_mlp(place: str) -> None:
    torch.manual_seed(0)
    bare = tiny_models.mixtral(1, 1).double()
    one = load_model(bare)
    dense = tiny_models.llama_like(bare).double()
    other = load_model(dense)
    tokens = tiny_models.random_tokens(2, 7)
    options = EvaluationOptions(resamples=5, mlps=(1,))
    ours = evaluate(one, sae(one, place), tokens, options)
    theirs = evaluate(other, sae(other, place), tokens, options)
    for name in ("interaction", "residual", "dominant_share", "norm_interaction"):
        expected = getattr(theirs, name)
        if expected is not None:  # no norm's own at the MLP's input
            assert getattr(ours, name) == pytest.approx(expected, rel=1e-9), name
    for scheme, by_mid in theirs.phi.items():
        for mid, figure in by_mid.items():
            assert ours.phi[scheme][mid].mean == pytest.approx(figure.mean, abs=1e-4), scheme
    measured = [
        measure(each, sae(each, place), tokens, MeasureOptions(mlps=(1,), attention=False))
        for each in (one, other)
    ]
    for form, figure in measured[1].totals.items():
        assert measured[0].totals[form].mean == pytest.approx(figure.mean, rel=1e-9), form
    assert [p.latents for p in measured[0].top_pairs] == [p.latents for p in measured[1].top_pairs]
    for mine, its in zip(measured[0].top_pairs, measured[1].top_pairs, strict=True):
        assert mine.second_difference == pytest.approx(its.second_difference, rel=1e-6)


def test_clusters_are_made_of_each_experts_neurons(model: LanguageModel) -> None:
    crosscoder, tokens = sae(model, PLACES[1]), tiny_models.random_tokens(2, 9)
    views = mlp_views(model, crosscoder, (1,), mixtures=True)
    (batch,) = encode_batches(model, crosscoder, tokens, 2, needs_of(views))
    seen, labels = read_by(views, batch), torch.tensor([0, 0, 1, -1, 1, 0, 1, 1, -1, 0, 0, 1])
    sums = internal_interaction(seen, batch.latents, labels)[1]
    assert sums.shape == (2, sum(each.n_neurons for each in model.mixture(1).experts))
    whole = token_pairs(batch.latents, seen).collected().matrix("I", normalise="sum")
    for label in (0, 1):
        inside = whole[labels == label][:, labels == label].sum()
        torch.testing.assert_close(sums[label].sum(), inside, rtol=1e-9, atol=1e-9)
    pairs = torch.tensor([[0, 1], [4, 7], [2, 6]])
    differences = second_differences(seen, batch.latents, pairs).values
    measured = pair_examples(None, [batch], views, [tuple(pair) for pair in pairs.tolist()])
    active = batch.latents.dense() != 0
    for at, ((h, k), example) in enumerate(zip(pairs.tolist(), measured, strict=True)):
        together = int((active[:, h] & active[:, k]).sum())
        assert float(differences[at]) == pytest.approx(example.second_difference * together)


@pytest.mark.slow
def test_a_mixtures_latents_are_clustered() -> None:
    torch.manual_seed(0)
    model = load_model(tiny_models.qwen2_moe(), tokenizer=tiny_models.word_tokenizer())
    text = tiny_models.random_tokens(20, 24, seed=3)
    crosscoder = random_kind(model, [PLACES[0]], Layout.joint(24, 1), "topk").float()
    sums = tally_interactions(model, crosscoder, text[:8]).interactions
    source = MeasuredCrosscoder(crosscoder, sums, text[:8], text[8:])
    settings = ClusterSettings(
        similarity="I",
        against=("second-differences", "coactivation"),
        algorithm="agglomerative",
        judge="overlap",
        seeds=1,
        choice=LatentChoice(min_tokens=1, max_frequency=1.0),
        scored=4,
        windows=2,
        resamples=20,
    )
    result = cluster(model, source, settings, announce=lambda _: None)
    (run,) = result.runs.values()
    neurons = sum(each.n_neurons for each in model.mixture(1).experts)
    found = [neuron for each in run.clusters for neuron in each.neurons]
    assert found
    assert all(each.block == 1 and 0 <= each.neuron < neurons for each in found)


def audit(model: LanguageModel) -> None:
    next(read_batches(model, sae(model, PLACES[0]), tiny_models.random_tokens(2, 7)))


def train(model: LanguageModel) -> None:
    config = RunConfig(objective=Objective(interaction=1.0))
    specified(model, "one", "", config, DictionaryPlan(model.hookpoints([PLACES[0]])))


ONE_MLP = {
    "audit": audit,
    "train": train,
    "attribute": model_parts,
    "another trainer": lambda model: MLPPenalty.of(model, 1, Objective(interaction=1.0)),
    "a game": lambda model: language_model_game(
        model, sae(model, PLACES[0]), tiny_models.random_tokens(1, 7)[0], 3, 1
    ),
    "a certificate": lambda model: document_values(
        model,
        sae(model, PLACES[0]),
        Documents(tiny_models.random_tokens(2, 7), torch.tensor([7, 7])),
        Treatments(keep=(1,), mlps=(1,)),
    ),
}


@pytest.mark.parametrize("what", ONE_MLP)
def test_what_needs_one_mlp_names_the_mixture(what: str, model: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match=r"mixture of experts \(\w+\).*need a dense MLP"):
        ONE_MLP[what](model)
