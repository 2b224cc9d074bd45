"""Measuring a whole text on tiny language models: streaming, shards, contexts, bad input."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from dictionaries import random_crosscoder
from measured import assert_equal, dictionary, text
from reference import DenseMLP, DenseView
from tiny_models import D_MODEL, END

from crossproof.activations import scored_positions
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.encode import encode_batches
from crossproof.errors import CrossproofError
from crossproof.evaluation import (
    MeasurementResult,
    MeasureOptions,
    measure,
    pair_examples,
    tally_interactions,
)
from crossproof.evaluation.pair_summary import owners, ratios, totals
from crossproof.evaluation.pair_sums import DOMINATED
from crossproof.interactions import (
    additive_interaction,
    dominant_share,
    input_dictionaries,
    interaction,
    merge,
    mlp_views,
    output_game,
    second_difference_sums,
    shapley_taylor,
)
from crossproof.lm import LanguageModel
from crossproof.lm.hookpoints import Hookpoints
from crossproof.lm.unembedding import input_norm

KINDS = ("gpt-neo", "llama")


@pytest.fixture
def model(
    request: pytest.FixtureRequest, language_models: dict[str, LanguageModel]
) -> LanguageModel:
    """The model in float64: then the only differences left are orders of summation."""
    found = copy.deepcopy(language_models[request.param])
    found._bare.double()
    found.dtype = torch.float64
    found._mlps.clear()
    return found


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_one_pass_seven_shards_and_another_batch_size_agree(model: LanguageModel) -> None:
    crosscoder, sequences = dictionary(model), text()
    whole = tally_interactions(model, crosscoder, sequences, batch_sequences=14)
    parts = [
        tally_interactions(model, crosscoder, part) for part in torch.tensor_split(sequences, 7)
    ]
    assert_equal(merge(part.interactions for part in parts), whole.interactions)
    small = tally_interactions(model, crosscoder, sequences, batch_sequences=3)
    assert_equal(small.interactions, whole.interactions)
    for name, values in whole.totals.items():
        np.testing.assert_allclose(small.totals[name], values, rtol=1e-9)


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_totals_are_those_of_the_formulas(model: LanguageModel) -> None:
    crosscoder, sequences = dictionary(model), text()
    found = tally_interactions(model, crosscoder, sequences)
    scored = scored_positions(sequences, model.special_ids)
    x = model.activations(sequences, crosscoder.hookpoints.names)[scored]
    latents = crosscoder.encode(x)
    assert found.interactions.tokens == len(x) == found.totals["tokens"].sum()
    for place, view in enumerate(input_dictionaries(model, crosscoder).values()):
        dominance = view.dominance(latents)
        whole = float(interaction(view, latents, dominance).sum())
        ours = found.totals["I"][:, place].sum()
        if not view.mlp.gated:
            j = float(additive_interaction(view, latents, dominance).sum())
            assert found.totals["J"][:, place].sum() == pytest.approx(j, rel=1e-9)
        assert ours == pytest.approx(whole, rel=1e-9)
        dominated = (dominant_share(view, latents, dominance) > DOMINATED).sum()
        assert found.totals["dominated"][:, place].sum() == dominated


@pytest.mark.parametrize("model", ["gpt-neo"], indirect=True)
def test_summaries_are_per_token_and_paired(model: LanguageModel) -> None:
    crosscoder, sequences = dictionary(model), text()
    first = tally_interactions(model, crosscoder, sequences)
    figures = totals(first, resamples=50)
    i = first.interactions.total("I", normalise="mean")
    assert list(figures["I"].by_block) == pytest.approx(i.tolist(), rel=1e-9)
    assert figures["I"].ci[0] < figures["I"].mean < figures["I"].ci[1]
    assert 0 <= figures["dominated"].mean <= 1
    same = ratios(first, first, resamples=50)
    assert same["I"].mean == same["I"].ci[0] == same["I"].ci[1] == 1
    doubled = replace(first, totals={**first.totals, "I": first.totals["I"] * 2})
    assert ratios(first, doubled, resamples=50)["I"].ci == pytest.approx([2, 2])
    top = owners(first.interactions)["0"]
    owned = first.interactions.owned[0].double()
    assert top[0].share == pytest.approx(float(owned.max() / owned.sum()))


@pytest.mark.parametrize("model", ["gpt-neo"], indirect=True)
def test_pair_contexts_show_where_the_interaction_is_largest(model: LanguageModel) -> None:
    crosscoder, sequences = dictionary(model), text()
    tally = tally_interactions(model, crosscoder, sequences, kept_sequences=len(sequences))
    found, views = tally.interactions, mlp_views(model, crosscoder)
    row = found.top_pairs(1, normalise="sum")
    pair = (int(found.pairs[row, 0]), int(found.pairs[row, 1]))
    said: list[tuple[int, int]] = []
    example = pair_examples(
        model.tokenizer, tally.encoded, views, [pair], 4, progress=lambda *step: said.append(step)
    )[0]
    assert said == [(0, len(sequences)), *((b.end, len(sequences)) for b in tally.encoded)]
    peaks = [context.activations[context.peak] for context in example.contexts]
    assert peaks == sorted(peaks, reverse=True)
    assert 0 < len(peaks) <= 4
    everywhere = pair_examples(model.tokenizer, tally.encoded, views, [pair], contexts=99)[0]
    total = sum(sum(context.activations) for context in everywhere.contexts)
    assert total == pytest.approx(float(found.pair_sums("I", normalise="sum")[row]), rel=1e-6)
    per_token = float(found.pair_sums("I", normalise="coactive")[row])
    assert 0 < example.second_difference < 2.6 * per_token  # ω < 1.3, both directions


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_pairs_carry_their_exact_index_at_the_tokens_where_they_interact_most(
    model: LanguageModel,
) -> None:
    crosscoder, sequences = dictionary(model), text()
    result = measure(model, crosscoder, sequences, MeasureOptions(pairs=3, shapley_tokens=1))
    assert MeasurementResult.from_json(result.to_json()).to_json() == result.to_json()
    views = mlp_views(model, crosscoder)
    tally = tally_interactions(model, crosscoder, sequences, kept_sequences=len(sequences))
    for pair in result.top_pairs:
        example = pair_examples(model.tokenizer, tally.encoded, views, [pair.latents])[0]
        seen, total, at_peak = example.peaks[0], 0.0, 0.0
        for view in seen.values():
            token, pairs = view.latents, torch.tensor([pair.latents])
            assert set(pair.latents) <= set(token.indices.tolist())
            at_peak += float(second_difference_sums(view.dictionary, token, pairs).output[0])
            index = shapley_taylor(output_game(view.dictionary, token, 0))
            h, k = (index.players.tolist().index(latent) for latent in pair.latents)
            total += float(index.matrix[h, k])
        assert at_peak > 0
        assert pair.shapley_taylor == pytest.approx(total, rel=1e-9)
    without = measure(model, crosscoder, sequences, MeasureOptions(pairs=3, shapley_tokens=0))
    assert all(pair.shapley_taylor is None for pair in without.top_pairs)
    assert "φ" in repr(result)
    assert "φ" not in repr(without)


@pytest.mark.parametrize("model", ["gpt-neo"], indirect=True)
def test_text_without_tokens_and_dictionaries_without_mlps_are_refused(
    model: LanguageModel,
) -> None:
    crosscoder = dictionary(model)
    with pytest.raises(CrossproofError, match="no tokens to measure"):
        tally_interactions(model, crosscoder, torch.full((3, 12), END))
    names = ("blocks.1.hook_resid_post",)  # nothing comes after it
    blind = Crosscoder(CrosscoderConfig(8, "topk", 2), Hookpoints.from_names(names, 2), D_MODEL)
    with pytest.raises(CrossproofError, match="No MLP reads the dictionary"):
        tally_interactions(model, blind.double(), text())


@pytest.mark.parametrize("model", KINDS, indirect=True)
def test_a_dictionary_of_the_stream_is_measured_as_brute_force_has_it(
    model: LanguageModel,
) -> None:
    hookpoints = Hookpoints.from_names(("blocks.0.hook_resid_pre",), 2)
    crosscoder = random_crosscoder(CrosscoderConfig(20, "topk", 4), hookpoints, D_MODEL)
    sequences, options = text(), MeasureOptions(pairs=3, shapley_tokens=1, mlps="all")
    result = measure(model, crosscoder, sequences, options)
    assert result.blocks == (0, 1)
    assert result.views["1"].startswith("residual stream blocks.0.hook_resid_pre")
    assert MeasurementResult.from_json(result.to_json()).to_json() == result.to_json()
    assert all(pair.second_difference > 0 for pair in result.top_pairs)

    stream, at_input = "blocks.1.ln2.hook_in", "blocks.1.mlp.hook_in"
    also = (stream, at_input)
    (batch,) = encode_batches(model, crosscoder, sequences, len(sequences), also)
    r, u = (batch.model_activations[name][batch.scored].double() for name in also)
    norm, mlp = input_norm(model, 1, "mlp"), DenseMLP(model.mlp(1))
    s = (norm.centre(r).square().mean(1) + norm.epsilon).sqrt()
    vectors = norm.centre(crosscoder.decoder_vectors(0).detach()) * norm.weight
    code = batch.latents.dense() / s[:, None]
    view = DenseView(mlp, code, vectors, torch.zeros(D_MODEL).double())
    # Each token's baseline is what its own pre-activation holds beside the latents.
    view.beta = u @ mlp.W_in + mlp.b_in - view.p.sum(2)
    if view.gated:
        view.beta_gate = u @ mlp.W_gate + mlp.b_gate - view.q.sum(2)
    expected = float(view.interaction().mean())
    assert result.totals["I"].by_block[1] == pytest.approx(expected, rel=1e-5)
    (seen,) = mlp_views(model, crosscoder, (1,)).values()
    hidden = float(seen.norm_interaction(batch, singles=False).double().mean())
    assert result.totals["norm"].by_block[1] == pytest.approx(hidden, rel=1e-5)
    assert hidden > 0
