"""A norm on an MLP's output weighs its neurons in every view (docs/theory/residual.md, T6)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from dictionaries import F64, random_crosscoder
from reference import DenseMLP, DenseView, block_terms
from tiny_models import SECOND_NORMS, granite, random_tokens, word_tokenizer
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from crossproof.auditing.readings import read_batches
from crossproof.clusters.description import internal_interaction
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.evaluation.measure_run import MeasureOptions, measure
from crossproof.interactions import InputView, UpstreamView, interaction, mlp_views
from crossproof.interactions.measuring import token_pairs
from crossproof.interactions.views import described
from crossproof.lm import Hookpoints, LanguageModel, ModelPair, load_model
from crossproof.lm.stream import StreamPlace, second_norm, stream_place
from crossproof.training import Objective
from crossproof.training.config import RunConfig
from crossproof.training.kinds import DictionaryPlan
from crossproof.training.specs import specified

BLOCK, LATENTS = 1, 12
AT, OUT, TAKEN = (f"blocks.{BLOCK}.{p}" for p in ("mlp.hook_in", "mlp.hook_out", "hook_mlp_out"))
CLOSE = 2.0**-18
"""Relative: RMS norms and what is read of float64 models are float32 in places."""
FORMS = [
    form if form in ("gemma2", "olmo2") else pytest.param(form, marks=pytest.mark.slow)
    for form in SECOND_NORMS
]


@dataclass(frozen=True, eq=False)
class Case:
    model: LanguageModel
    crosscoder: Crosscoder
    tokens: Tensor

    def batch(self, *needs: str) -> EncodedBatch:
        (batch,) = encode_batches(self.model, self.crosscoder, self.tokens, 9, needs)
        return batch

    def view(self) -> DenseView:
        """Of the MLP's input, every contribution spelt out."""
        mlp = DenseMLP(self.model.mlp(BLOCK))
        decoder, bias = self.crosscoder.decoder_vectors(0), self.crosscoder.decoder_bias(0)
        return DenseView(mlp, self.batch().latents.dense(), decoder, bias)

    def taken(self) -> Tensor:
        """‖o_n‖ of each token: what the model's own norm makes of each coordinate it is given."""
        out, taken = (self.batch(OUT, TAKEN).model_activations[name] for name in (OUT, TAKEN))
        factor = (taken / out)[self.batch().scored]
        return (self.model.mlp(BLOCK).W_out * factor[:, None]).norm(dim=2)

    def by_hand(self) -> Tensor:
        """I of each token."""
        neurons = torch.eye(self.model.mlp(BLOCK).n_neurons, dtype=F64)
        return (self.view().interaction(neurons) * self.taken()).sum(1)


def model_of(form: str, seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    bare = SECOND_NORMS[form]().double()
    for parameter in bare.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return load_model(bare, tokenizer=word_tokenizer())


def sae(model: LanguageModel, *names: str) -> Crosscoder:
    hookpoints = model.hookpoints(list(names))
    config = CrosscoderConfig(LATENTS, "topk", 4)
    with torch.no_grad():
        return random_crosscoder(config, hookpoints, model.d_model)


@pytest.fixture(scope="module", params=FORMS)
def case(request: pytest.FixtureRequest) -> Case:
    model = model_of(request.param)
    return Case(model, sae(model, AT), random_tokens(3, 9))


def test_every_command_weighs_neurons_by_what_the_stream_takes(case: Case) -> None:
    by_hand = case.by_hand()
    options = EvaluationOptions(resamples=5, patch_hookpoints=False, schemes=())
    figures = evaluate(case.model, case.crosscoder, case.tokens, options)
    assert figures.interaction == pytest.approx(float(by_hand.mean()), rel=CLOSE)
    assert list(figures.views) == [str(BLOCK)]
    measured = measure(case.model, case.crosscoder, case.tokens, MeasureOptions(attention=False))
    assert measured.totals["I"].mean == pytest.approx(float(by_hand.mean()), rel=CLOSE)
    (reading,) = read_batches(case.model, case.crosscoder, case.tokens)
    weights = reading.interactions
    found = torch.zeros(len(by_hand)).index_add_(0, weights.token, weights.weight)
    (view,) = mlp_views(case.model, case.crosscoder).values()
    seen = {BLOCK: view.at(case.batch(*view.needs))}
    totals = token_pairs(case.batch().latents, seen).token_totals()
    torch.testing.assert_close(totals["I"][:, 0], by_hand, rtol=CLOSE, atol=0)
    pairs = token_pairs(case.batch().latents, seen)
    alone = torch.zeros_like(by_hand).index_add_(
        0, pairs.latents.token_index, pairs.diagonal.sum(0)
    )
    torch.testing.assert_close(found.double(), by_hand - alone, rtol=1e-5, atol=1e-5)
    labels = torch.zeros(LATENTS, dtype=torch.int64)  # one cluster holds all pairs
    inside = internal_interaction(seen, case.batch().latents, labels)[BLOCK].sum()
    assert float(inside) == pytest.approx(float((by_hand - alone).sum()), rel=CLOSE)


def test_pushed_back_through_the_norm_it_is_the_same_dictionary(case: Case) -> None:
    (at_input,) = mlp_views(case.model, case.crosscoder).values()
    assert isinstance(at_input, InputView)
    assert at_input.needs == (OUT,)
    before = sae(case.model, f"blocks.{BLOCK}.hook_resid_mid")
    (upstream,) = mlp_views(case.model, before).values()
    assert isinstance(upstream, UpstreamView)
    batch, norm = case.batch(*upstream.needs), upstream.view.norm
    with torch.no_grad():
        before.W_dec[:, 0] = case.crosscoder.decoder_vectors(0) / norm.weight * before.scale[0]
    (upstream,) = mlp_views(case.model, before).values()
    s = upstream.view.denominators(batch.model_activations[upstream.stream][batch.scored])
    latents = batch.latents.with_values(batch.latents.values * s[batch.latents.token_index])
    error = batch.x[:, 0] - case.crosscoder.decode(batch.latents)[:, 0]
    exact = replace(at_input, dictionary=at_input.dictionary.shifted(error))  # rest: exact
    ours, theirs = exact.at(batch), upstream.at(replace(batch, latents=latents))

    def figures(seen: object) -> tuple[Tensor, ...]:
        dominance = seen.dictionary.dominance(seen.latents)
        pairs = token_pairs(seen.latents, {BLOCK: seen})
        kept = seen.output(dominance.value, dominance.gate)
        whole = seen.weighed(interaction(seen.dictionary, seen.latents, dominance))
        return whole, pairs.sums, pairs.diagonal, kept

    for mine, other in zip(figures(ours), figures(theirs), strict=True):
        scale = float(other.abs().max())
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=CLOSE * scale)


@pytest.mark.parametrize("upstream", [False, True])
def test_penalties_train_on_what_the_stream_takes(case: Case, upstream: bool) -> None:
    model, objective = case.model, Objective(certified=1.0, keep_largest=1.0)
    name = f"blocks.{BLOCK}.hook_resid_mid" if upstream else AT
    crosscoder = sae(model, name)
    config = RunConfig(objective=objective, penalise=str(BLOCK), steps=2)
    spec = specified(model, "one", "", config, DictionaryPlan(crosscoder.hookpoints))
    names = [*crosscoder.hookpoints.names, *spec.about.streams]
    x = model.activations(case.tokens, names).flatten(0, 1)
    with torch.no_grad():
        code = crosscoder.encode_training(x[:, :1] * crosscoder.scale[:, None]).latents.dense()
    decoder, bias = crosscoder.decoder_vectors(0), crosscoder.decoder_bias(0)
    mlp, second = DenseMLP(model.mlp(BLOCK)), second_norm(model, BLOCK)
    assert second is not None
    read, x_hat = x[:, 0], code @ decoder + bias
    if upstream:
        target = spec.trainer(crosscoder, names).targets[0]
        s = target.upstream.norm.denominator(x[:, 1])[:, None]
        mlp, rest = DenseMLP(target.mlp), (x[:, 1] - code @ decoder) / s
        code, bias, read, x_hat = code / s, rest, x[:, 1] / s, (x[:, 1] - (read - x_hat)) / s
    expected = block_terms(mlp, code, decoder, bias, read, x_hat, second.norm)
    found = spec.trainer(crosscoder, names).step(x).terms
    for term in ("certified", "keep_largest"):
        torch.testing.assert_close(found[term], expected[term].detach(), rtol=1e-6, atol=0)


def test_what_a_block_scales_is_no_part_of_the_stream() -> None:
    torch.manual_seed(0)
    for scale, places in ((0.5, {None}), (1.0, {StreamPlace(1, 3)})):
        model = load_model(granite(scale), tokenizer=word_tokenizer())
        assert {stream_place(model, OUT)} == places


@pytest.mark.slow
def test_each_model_of_a_pair_has_its_own() -> None:
    pair = ModelPair(model_of("gemma2"), model_of("gemma2", 1))
    crosscoder = sae(pair, AT)
    views = mlp_views(pair, crosscoder)
    assert [view.needs for view in views.values()] == [(OUT,), ("blocks.3.mlp.hook_out",)]
    for at, (view, model) in enumerate(zip(views.values(), pair.models, strict=True)):
        (batch,) = encode_batches(pair, crosscoder, random_tokens(2, 5), 2, view.needs)
        alone = sae(model, AT)
        with torch.no_grad():
            alone.W_dec[:, 0] = crosscoder.decoder_vectors(at) * alone.scale[0]
        (own,) = mlp_views(model, alone).values()
        (theirs,) = encode_batches(model, alone, random_tokens(2, 5), 2, own.needs)
        torch.testing.assert_close(view.at(batch).weight, own.at(theirs).weight)
        ours = view.at(batch).dictionary.output_norms
        torch.testing.assert_close(ours, own.at(theirs).dictionary.output_norms)


def test_without_a_norm_before_the_mlp_the_stream_is_read_as_it_is() -> None:
    model = model_of("olmo2")
    crosscoder = sae(model, f"blocks.{BLOCK}.hook_resid_pre")
    (view,) = mlp_views(model, crosscoder).values()
    (batch,) = encode_batches(model, crosscoder, random_tokens(2, 5), 2, view.needs)
    assert torch.equal(view.view.denominators(batch.x[:, 0]), torch.ones(len(batch.x), dtype=F64))
    assert not view.norm_interaction(batch).any()
    assert described(view, crosscoder).endswith(f"which {AT} holds without a norm")


def test_norms_behind_the_sums_are_no_such_stream() -> None:
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "vocab_size": 64}
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    torch.manual_seed(0)
    bare = OPTForCausalLM(OPTConfig(do_layer_norm_before=False, **sizes, **shape))
    model = load_model(bare, tokenizer=word_tokenizer())
    hookpoints = Hookpoints.from_names(["blocks.1.hook_resid_pre"], 2)
    with pytest.raises(CrossproofError, match="scales or norms the stream itself between"):
        mlp_views(model, random_crosscoder(CrosscoderConfig(8, "topk", 2), hookpoints, 16))
