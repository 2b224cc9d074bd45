"""Latents that may be negative, skips and tokens' own scales, through what measures them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_layouts import LAYOUTS, D, F
from tiny_models import random_tokens

import crossproof
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.encode import encode_batches
from crossproof.errors import CrossproofError
from crossproof.interactions import mlp_views
from crossproof.interactions.penalty import interaction
from crossproof.interactions.views import needs_of
from crossproof.lm import LanguageModel

TOKENS = random_tokens(2, 8)
CLOSE = {"rtol": 0.0, "atol": 2e-5}
"""Float32: sums of at most 48 products of numbers of order one, two of them in turn."""
BESIDE = ("saelens layer_norm", "saelens constant_norm_rescale", "saelens skip_transcoder")
SIGNED = ("saelens abstopk", "circuit-tracer topk, skip", "circuit-tracer negative thresholds")


def imported(folder: Path, model: LanguageModel, name: str) -> Crosscoder:
    LAYOUTS[name].save(folder, 0)
    crosscoder, _ = crossproof.import_dictionary(folder, model, LAYOUTS[name].hookpoints)
    return crosscoder


@pytest.mark.parametrize("name", [*BESIDE, *SIGNED])
def test_all_contributions_together_are_the_models_own_mlp(
    tmp_path: Path, gpt_neo: LanguageModel, name: str
) -> None:
    crosscoder = imported(tmp_path, gpt_neo, name)
    views = mlp_views(gpt_neo, crosscoder)
    outs = [f"blocks.{block}.mlp.hook_out" for block in views]
    assert views
    batch = next(encode_batches(gpt_neo, crosscoder, TOKENS, 2, [*needs_of(views), *outs]))
    assert bool((batch.latents.values < 0).any()) == (name in SIGNED)
    for view, out in zip(views.values(), outs, strict=True):
        seen = view.at(batch)
        sums = seen.dictionary.output(*seen.dictionary.sums(seen.latents))
        torch.testing.assert_close(sums, batch.model_activations[out][batch.scored], **CLOSE)


def test_negative_latents_count_by_their_size(tmp_path: Path, gpt_neo: LanguageModel) -> None:
    """I(x) and dominance against sums over all latents, written out."""
    crosscoder = imported(tmp_path, gpt_neo, "saelens abstopk")
    (view,) = mlp_views(gpt_neo, crosscoder).values()
    batch = next(encode_batches(gpt_neo, crosscoder, TOKENS, 2, needs_of({0: view})))
    seen = view.at(batch)
    p = seen.latents.dense()[:, :, None] * seen.dictionary.G  # [B, H, N]
    largest, who = p.abs().max(1)
    dominance = seen.dictionary.dominance(seen.latents)
    signed = p.gather(1, who[:, None])[:, 0]
    torch.testing.assert_close(dominance.value, signed, **CLOSE)
    expected = ((p.abs().sum(1) - largest) * seen.dictionary.output_norms).sum(1)
    found = interaction(seen.dictionary, seen.latents, dominance)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    low, high = seen.dictionary.hull(seen.latents)
    base = seen.dictionary.baseline
    torch.testing.assert_close(low, base + p.clamp_max(0).sum(1), **CLOSE)
    torch.testing.assert_close(high, base + p.clamp_min(0).sum(1), **CLOSE)


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_latents_is_saved_spliced_and_never_forgotten(
    tmp_path: Path, gpt_neo: LanguageModel, name: str
) -> None:
    crosscoder = imported(tmp_path, gpt_neo, name)
    x = torch.randn(5, len(crosscoder.hookpoints), D)
    crosscoder.save_pretrained(tmp_path / "saved", crossproof.Provenance("tiny", "0" * 16))
    again = crossproof.Crosscoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(again(x), crosscoder(x))
    with pytest.raises(CrossproofError, match="give decode the activations too"):
        crosscoder.decode(crosscoder.encode(x))
    with pytest.raises(CrossproofError, match="bounds and attributions need"):
        crosscoder.decoder_bias(crosscoder.written[0])
    written = [crosscoder.hookpoints.names[at] for at in crosscoder.written]
    batch = next(encode_batches(gpt_neo, crosscoder, TOKENS, 2))
    with crossproof.spliced(gpt_neo, crosscoder) as model:
        found = model.logits(TOKENS)
    place = crosscoder.hookpoints.index(written[0])
    whole = batch.model_activations[written[0]].clone()
    whole[batch.scored] = crosscoder(batch.x)[:, place]
    torch.testing.assert_close(found, gpt_neo.logits(TOKENS, {written[0]: whole}), **CLOSE)


def test_folding_leaves_a_skip_as_it_was(gpt_neo: LanguageModel) -> None:
    hookpoints = gpt_neo.hookpoints(["blocks.0.mlp.hook_in", "blocks.0.mlp.hook_out"])
    crosscoder = Crosscoder(CrosscoderConfig(F, "relu"), hookpoints, D)
    with torch.no_grad():
        for weights in (crosscoder.W_enc, crosscoder.W_dec, crosscoder.b_enc, crosscoder.b_dec):
            weights.normal_()
    crosscoder.add_skip(0, 1, torch.randn(D, D))
    crosscoder.scale.copy_(torch.tensor([0.5, 4.0]))
    x = torch.randn(5, 2, D)
    before = crosscoder(x)
    crosscoder.fold()
    torch.testing.assert_close(crosscoder(x), before, rtol=1e-5, atol=1e-4)


def test_a_token_of_zeros_has_no_scale(tmp_path: Path, gpt_neo: LanguageModel) -> None:
    crosscoder = imported(tmp_path, gpt_neo, "saelens constant_norm_rescale")
    x = torch.zeros(2, 1, D)
    assert not crosscoder.encode(x).indices.numel()
    assert not crosscoder(x).any()


def test_a_normalised_dictionary_stands_alone(tmp_path: Path, gpt_neo: LanguageModel) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        LAYOUTS["saelens layer_norm"].save(tmp_path / name, 0)
    with pytest.raises(CrossproofError, match="cannot be joined with others"):
        crossproof.import_dictionary(tmp_path, gpt_neo)


def test_a_latent_that_is_only_negative_has_contexts(
    tmp_path: Path, gpt_neo: LanguageModel
) -> None:
    crosscoder = imported(tmp_path, gpt_neo, "saelens abstopk")
    with torch.no_grad():
        crosscoder.b_enc[0] = -1e3  # always the largest
    (example,) = crossproof.top_contexts(gpt_neo, crosscoder, TOKENS, [0])
    assert example.frequency == 1
    assert example.mean_activation < 0
    assert len(example.contexts) == 2
    assert all(min(c.activations) == c.activations[c.peak] < 0 for c in example.contexts)
