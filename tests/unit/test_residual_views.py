"""Dictionaries of the stream in language models of several forms (docs/theory/residual.md)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dictionaries import F64, random_crosscoder
from tiny_models import (
    ARCHITECTURES,
    CONTEXT,
    D_MODEL,
    IDS,
    N_BLOCKS,
    N_NEURONS,
    gemma2,
    olmo2,
    random_tokens,
    word_tokenizer,
)
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedModel

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.errors import CrossproofError
from crossproof.interactions import UpstreamView, mlp_views, with_mean_rest
from crossproof.lm import Hookpoints, LanguageModel, load_model

CLOSE = 2.0**-43
"""Relative, float64: two sums of 16 products, each behind a norm over 16 coordinates."""
CLOSE_RMS = 2.0**-20
"""The same for RMS norms, which transformers computes in float32 whatever the model's dtype."""
LATENTS = 24


def gptj() -> PreTrainedModel:
    """Attention and MLP side by side behind one norm."""
    sizes = {"n_positions": CONTEXT, "n_embd": D_MODEL, "n_layer": N_BLOCKS, "n_head": 2}
    return GPTJForCausalLM(GPTJConfig(n_inner=N_NEURONS, rotary_dim=4, **sizes, **IDS))


FORMS: dict[str, Callable[[], PreTrainedModel]] = {
    **ARCHITECTURES,
    "gemma2": gemma2,
    "olmo2": olmo2,
    "gptj": gptj,
}
IN_FLOAT32 = ("llama", "gemma2", "olmo2")
"""Those whose RMS norms are."""


@pytest.fixture(scope="module")
def models() -> dict[str, LanguageModel]:
    """All forms in float64, no weight at its initial value."""
    out = {}
    for name, build in FORMS.items():
        torch.manual_seed(1)
        bare = build().double()
        for parameter in bare.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        out[name] = load_model(bare, tokenizer=word_tokenizer())
    return out


def dictionary(model: LanguageModel, *names: str) -> Crosscoder:
    hookpoints = Hookpoints.from_names(names, model.n_blocks)
    config = CrosscoderConfig(n_latents=LATENTS, k=6)
    crosscoder = random_crosscoder(config, hookpoints, model.d_model)
    if model.dtype != F64:
        crosscoder = crosscoder.to(model.dtype)
    return crosscoder


def batches(
    model: LanguageModel, crosscoder: Crosscoder, needs: tuple[str, ...]
) -> list[EncodedBatch]:
    return list(encode_batches(model, crosscoder, random_tokens(3, 12), 2, needs))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["hook_resid_pre", "hook_attn_out", "hook_embed"])
def test_contributions_add_up_to_the_models_own_pre_activations(
    models: dict[str, LanguageModel], form: str, place: str
) -> None:
    model = models[form]
    crosscoder = dictionary(model, place if place == "hook_embed" else f"blocks.0.{place}")
    views = mlp_views(model, crosscoder, "all")
    parallel = form in ("gpt-neox", "gptj")
    assert list(views) == ([1] if parallel and "attn" in place else [0, 1])
    for view in views.values():
        at_input = f"blocks.{view.block}.mlp.hook_in"
        for batch in batches(model, crosscoder, (*view.needs, at_input)):
            mlp = model.mlp(view.block)
            u = batch.model_activations[at_input][batch.scored]
            seen = view.at(batch)
            value, gate = seen.dictionary.sums(seen.latents)
            size = float((u.abs() @ mlp.W_in.abs()).max())
            gap = seen.dictionary.baseline + value - (u @ mlp.W_in + mlp.b_in)
            close = CLOSE_RMS if form in IN_FLOAT32 else CLOSE
            assert gap.abs().max() <= close * size
            output = seen.dictionary.output(value, gate)
            torch.testing.assert_close(output, mlp(u), rtol=0, atol=64 * close * size)


def test_in_float32_they_add_up_to_its_rounding(language_models: dict[str, LanguageModel]) -> None:
    torch.manual_seed(1)
    behind_norms = [load_model(build(), tokenizer=word_tokenizer()) for build in (gemma2, olmo2)]
    for model in [*language_models.values(), *behind_norms]:
        crosscoder = dictionary(model, "blocks.0.hook_resid_pre")
        (view,) = mlp_views(model, crosscoder).values()
        (batch, _) = batches(model, crosscoder, (*view.needs, "blocks.0.mlp.hook_in"))
        mlp, seen = model.mlp(0), view.at(batch)
        u = batch.model_activations["blocks.0.mlp.hook_in"][batch.scored]
        value, _ = seen.dictionary.sums(seen.latents)
        gap = seen.dictionary.baseline + value - (u @ mlp.W_in + mlp.b_in)
        assert gap.abs().max() <= 1e-5 * (u.abs() @ mlp.W_in.abs()).max()


@pytest.mark.parametrize("form", ["gpt2", "llama", "gptj"])
def test_a_layers_latents_contribute_what_taking_its_output_away_takes(
    models: dict[str, LanguageModel], form: str
) -> None:
    model = models[form]
    names = ("blocks.0.hook_attn_out", "blocks.0.hook_mlp_out")
    crosscoder = dictionary(model, *names)
    view = mlp_views(model, crosscoder, "all")[1]
    assert isinstance(view, UpstreamView)
    (batch, _) = batches(model, crosscoder, view.needs)
    written = crosscoder.decode(batch.latents) - crosscoder.b_dec / crosscoder.scale[:, None]
    stream = batch.model_activations[view.stream][batch.scored]
    seen, mlp = view.at(batch), model.mlp(1)
    norm = view.view.norm
    s = view.view.denominators(stream)[:, None]
    with_layer = norm.weight * norm.centre(stream) / s
    without = norm.weight * norm.centre(stream - written.sum(1)) / s
    expected = (with_layer - without) @ mlp.W_in
    torch.testing.assert_close(
        seen.dictionary.sums(seen.latents)[0], expected, rtol=1e-9, atol=1e-9
    )


def test_the_last_whole_stream_holds_everything_before_it(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    names = [f"blocks.0.{part}" for part in ("hook_resid_pre", "hook_attn_out", "hook_resid_mid")]
    crosscoder = dictionary(model, *names, "blocks.0.hook_mlp_out", "blocks.1.hook_attn_out")
    first, second = mlp_views(model, crosscoder, "all").values()
    assert isinstance(first, UpstreamView)
    assert isinstance(second, UpstreamView)
    assert (first.block, first.hookpoints) == (0, (2,))
    assert (second.block, second.hookpoints) == (1, (2, 3, 4))


def test_by_default_each_hookpoint_is_read_by_the_next_mlp(
    models: dict[str, LanguageModel],
) -> None:
    def blocks(*names: str) -> list[int]:
        return list(mlp_views(models["gpt2"], dictionary(models["gpt2"], *names)))

    assert blocks("blocks.0.hook_resid_mid") == [0]
    assert blocks("blocks.0.hook_resid_post") == [1]
    assert blocks("blocks.0.hook_resid_pre", "blocks.1.hook_resid_mid") == [0, 1]
    assert blocks("blocks.0.hook_resid_mid", "blocks.1.mlp.hook_in") == [1]
    assert blocks("blocks.1.hook_resid_post") == []


def test_the_mean_rest_is_one_vector_for_all_tokens(models: dict[str, LanguageModel]) -> None:
    model = models["llama"]
    crosscoder = dictionary(model, "blocks.0.hook_resid_post")
    (view,) = mlp_views(model, crosscoder).values()
    read = batches(model, crosscoder, view.needs)
    mean = with_mean_rest({0: view}, read)[0]
    own = torch.cat([view.at(batch).dictionary.baseline for batch in read])
    shared = mean.at(read[0]).dictionary.baseline
    assert shared.shape == (1, N_NEURONS) or shared.dim() == 1
    torch.testing.assert_close(shared.flatten(), own.mean(0))
    with pytest.raises(CrossproofError, match="No position counts in the sequences"):
        with_mean_rest({0: view}, [])


@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
def test_what_freezing_hides_is_measured_with_the_stream_changed(
    models: dict[str, LanguageModel], form: str
) -> None:
    model = models[form]
    crosscoder = dictionary(model, "blocks.1.hook_resid_pre")
    (view,) = mlp_views(model, crosscoder).values()
    (batch, _) = batches(model, crosscoder, view.needs)
    assert isinstance(view, UpstreamView)
    whole, single = view.norm_interaction(batch).unbind(1)
    assert (whole >= 0).all()
    assert (single >= 0).all()
    token = 4
    alone = batch.latents.rows(token, token + 1)
    stream = batch.model_activations[view.stream][batch.scored][token][None]
    parts = [
        a * crosscoder.decoder_vectors(0)[h]
        for h, a in zip(alone.indices, alone.values, strict=True)
    ]
    by_hand = [view.view.norm_interaction(stream, part[None])[0] for part in parts]
    weight = view.at(batch).weight
    factor = 1.0 if weight is None else weight[token]
    torch.testing.assert_close(single[token], factor * sum(by_hand) / len(by_hand))


def test_errors_name_the_hookpoints_and_blocks(models: dict[str, LanguageModel]) -> None:
    model = models["gpt2"]
    with pytest.raises(CrossproofError, match=r"reads what this dictionary writes.*resid_post"):
        mlp_views(model, dictionary(model, "blocks.1.hook_resid_post"), "all")
    with pytest.raises(CrossproofError, match=r"block 0 reads nothing.*choose from blocks 1"):
        mlp_views(model, dictionary(model, "blocks.0.hook_resid_post"), (0,))
    with pytest.raises(CrossproofError, match="twice"):
        mlp_views(model, dictionary(model, "blocks.0.hook_mlp_out", "blocks.0.mlp.hook_out"))
