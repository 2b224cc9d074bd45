"""What is a summand of the stream that an MLP reads, in models that scale or norm the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dictionaries import random_kind
from tiny_models import D_MODEL, IDS, N_BLOCKS, N_NEURONS, granite, llama, word_tokenizer
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from crossproof.crosscoder import Crosscoder
from crossproof.crosscoder.layout import Layout
from crossproof.crosscoder.side_by_side import side_by_side
from crossproof.errors import CrossproofError
from crossproof.interactions import mlp_views
from crossproof.lm import LanguageModel, load_model


def loaded(build: Callable[[], PreTrainedModel]) -> LanguageModel:
    torch.manual_seed(0)
    bare = build()
    for parameter in bare.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return load_model(bare, tokenizer=word_tokenizer())


def scaled_embeddings() -> PreTrainedModel:
    sizes = {"hidden_size": D_MODEL, "num_hidden_layers": N_BLOCKS, "num_attention_heads": 2}
    rest: dict[str, Any] = {
        "num_key_value_heads": 1,
        "intermediate_size": N_NEURONS,
        "pad_token_id": 0,
    }
    return GraniteForCausalLM(GraniteConfig(embedding_multiplier=3.0, **sizes, **rest, **IDS))


def bloom(normed: bool) -> PreTrainedModel:
    """`normed`: its blocks add to the norm of the stream and not to the stream."""
    wired = {"apply_residual_connection_post_layernorm": normed}
    options: dict[str, Any] = {"hidden_size": D_MODEL, "n_layer": N_BLOCKS, "n_head": 2, **wired}
    return BloomForCausalLM(BloomConfig(**options, **IDS))


def scaled_blocks() -> PreTrainedModel:
    """What leaves a block is half of the sum (Gemma 4 scales it by a number of each layer)."""
    model = llama()
    layers: Any = model.model.layers
    for block in layers:
        block.register_forward_hook(lambda _module, _args, out: out * 0.5)
    return model


def sae(model: LanguageModel, name: str) -> Crosscoder:
    made = random_kind(model, [name], Layout.joint(8, 1), "relu")
    made.float()
    return made


def test_scaled_embeddings_are_no_summand_of_the_stream() -> None:
    model = loaded(scaled_embeddings)
    with pytest.raises(CrossproofError, match="the model scales its embeddings before"):
        model.hookpoints(["hook_embed"])
    with pytest.raises(CrossproofError, match="No MLP of"):
        mlp_views(model, sae(model, "embed.hook_out"), "all")
    assert list(mlp_views(model, sae(model, "blocks.0.hook_resid_pre"))) == [0]


def test_of_a_normed_embedding_the_stream_takes_the_norm() -> None:
    model = loaded(lambda: bloom(normed=False))
    assert list(mlp_views(model, sae(model, "hook_embed"))) == [0]
    with pytest.raises(CrossproofError, match="No MLP of"):
        mlp_views(model, sae(model, "embed.hook_out"), "all")


def test_a_block_that_scales_the_stream_ends_what_was_written_before() -> None:
    model = loaded(scaled_blocks)
    before, behind = (sae(model, f"blocks.0.hook_resid_{at}") for at in ("mid", "post"))
    assert list(mlp_views(model, before, "all")) == [0]
    assert list(mlp_views(model, behind, "all")) == [1]
    with pytest.raises(CrossproofError, match="scales or norms the stream itself between"):
        mlp_views(model, before, (1,))


def test_a_stream_that_starts_anew_in_every_block_is_refused() -> None:
    model = loaded(lambda: bloom(normed=True))
    for mlps in ("next", "all"):
        with pytest.raises(CrossproofError, match=r"no summand of what it reads: choose blocks"):
            mlp_views(model, sae(model, "blocks.0.hook_resid_pre"), mlps)


def test_outputs_that_alone_are_scaled_leave_the_stream_a_summand() -> None:
    model = loaded(lambda: granite(0.22))
    assert list(mlp_views(model, sae(model, "blocks.0.hook_resid_pre"), "all")) == [0, 1]


def test_a_dictionary_that_normalises_tokens_stands_beside_no_other() -> None:
    model = loaded(llama)
    members = {at: sae(model, f"blocks.0.hook_{at}_out") for at in ("attn", "mlp")}
    members["mlp"].token_scale.normalise("layer_norm")
    with pytest.raises(CrossproofError, match="'mlp' normalises each token by its own scale"):
        side_by_side(model, members)
