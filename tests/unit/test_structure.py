"""Hookpoints of other people's models: read from the model itself, or refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rounding import close
from tiny_models import random_tokens
from torch import Tensor
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CodeGenConfig,
    FalconConfig,
    GraniteConfig,
    OPTConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from crossproof.errors import CrossproofError
from crossproof.lm import Activation, LanguageModel, load_model
from tools import architectures

NAMES: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "data" / "hookpoints.json").read_text()
)
TOKENS, OTHERS = random_tokens(2, 8), random_tokens(2, 8, seed=1)
IDS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **IDS}
OPT = {"ffn_dim": 48, "max_position_embeddings": 32, **SIZES}
IN_TURN, PARALLEL = True, False
BRIDGE_FAULTS: dict[str, tuple[Any, bool]] = {
    "opt": (OPTConfig(word_embed_proj_dim=32, **OPT), IN_TURN),
    "opt-350m": (OPTConfig(word_embed_proj_dim=16, do_layer_norm_before=False, **OPT), IN_TURN),
    "falcon-rw": (FalconConfig(alibi=True, parallel_attn=False, multi_query=False, **SIZES), True),
    "falcon-7b": (FalconConfig(parallel_attn=True, multi_query=True, **SIZES), PARALLEL),
    "falcon-40b": (FalconConfig(new_decoder_architecture=True, num_kv_heads=2, **SIZES), PARALLEL),
    "codegen": (
        CodeGenConfig(n_positions=32, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, **IDS),
        PARALLEL,
    ),
}


def built(config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def tiny(kind: str) -> PreTrainedModel:
    model = architectures.tiny_model(kind)
    assert model is not None
    return model


def value(model: LanguageModel, name: str, tokens: Tensor = TOKENS) -> Tensor:
    return model.activations(tokens, [name])[:, :, 0]


def assert_equal(ours: Tensor, own: Tensor, what: str) -> None:
    rounding = close(64, 1 + own.abs(), torch.float32)
    torch.testing.assert_close(ours, own, msg=lambda text: f"{what}: {text}", **rounding)


@pytest.mark.parametrize("kind", NAMES)
def test_names_are_those_that_saved_crosscoders_use(kind: str) -> None:
    """Recorded from TransformerLens's bridge, where it agreed with the model."""
    model = load_model(tiny(kind))
    names = [name for name in model.available_hookpoints() if not name.startswith("blocks.1.")]
    assert names == NAMES[kind]


@pytest.mark.parametrize("kind", BRIDGE_FAULTS)
def test_what_the_bridge_mapped_wrongly_is_exact(kind: str) -> None:
    config, in_turn = BRIDGE_FAULTS[kind]
    bare = built(config)
    model = load_model(bare)
    architectures.check_exact(model)
    streams = [*("resid_pre", "resid_mid")[: 1 + in_turn], "resid_post"]
    expected = model.logits(OTHERS)
    for name in (f"blocks.{i}.hook_{stream}" for i in range(2) for stream in streams):
        assert_equal(model.logits(TOKENS, {name: value(model, name, OTHERS)}), expected, name)
    with torch.no_grad():
        theirs = bare(TOKENS, output_hidden_states=True).hidden_states
    assert_equal(value(model, "blocks.1.hook_resid_pre"), theirs[1], "resid_pre")
    assert_equal(value(model, "blocks.0.hook_resid_post"), theirs[1], "resid_post")
    assert len(model.hookpoints()) == 2 * (3 + in_turn) + 1
    assert ("blocks.0.hook_resid_mid" in model.missing_hookpoints()) != in_turn
    mlp = model.mlp(1)
    assert not mlp.gated
    names = "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"
    assert_equal(mlp(value(model, names[0])), value(model, names[1]), "MLP")


@pytest.mark.parametrize("kind", ["opt", "falcon-rw", "falcon-7b", "codegen"])
def test_streams_are_sums(kind: str) -> None:
    config, in_turn = BRIDGE_FAULTS[kind]
    model = load_model(built(config))
    parts = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    pre, attended, moved, post = (value(model, f"blocks.1.hook_{part}") for part in parts)
    assert_equal(pre + attended + moved, post, "resid_post")
    if in_turn:
        assert_equal(pre + attended, value(model, "blocks.1.hook_resid_mid"), "resid_mid")


def test_norms_behind_the_sums() -> None:
    model = load_model(built(BRIDGE_FAULTS["opt-350m"][0]))
    parts = ("resid_pre", "attn_out", "resid_mid", "mlp_out")
    pre, attended, mid, moved = (value(model, f"blocks.1.hook_{part}") for part in parts)
    assert_equal(pre + attended, value(model, "blocks.1.ln1.hook_in"), "first sum")
    assert torch.equal(mid, value(model, "blocks.1.ln1.hook_out"))
    assert_equal(mid + moved, value(model, "blocks.1.ln2.hook_in"), "second sum")
    with pytest.raises(CrossproofError, match=r"'hook_embed': the embeddings are not of the bl"):
        value(model, "hook_embed")


def test_a_plain_gelu_is_plain() -> None:
    assert load_model(built(BRIDGE_FAULTS["falcon-7b"][0])).mlp(0).activation is Activation.GELU


def test_an_mlp_that_is_added_to_in_place_leaves_a_replacement_alone() -> None:
    model = load_model(built(BRIDGE_FAULTS["falcon-7b"][0]))
    given = torch.randn(*TOKENS.shape, 32)
    kept = given.clone()
    model.logits(TOKENS, {"blocks.0.mlp.hook_out": given})
    assert torch.equal(given, kept)


def test_a_scaled_output_is_not_what_is_added() -> None:
    config = GraniteConfig(residual_multiplier=0.22, intermediate_size=48, **SIZES)
    half = load_model(built(config), dtype=torch.bfloat16)
    model = load_model(built(config))
    assert half.missing_hookpoints() == model.missing_hookpoints()
    pre, written, mid = (
        value(model, f"blocks.0.{name}")
        for name in ("hook_resid_pre", "attn.hook_out", "hook_resid_mid")
    )
    assert_equal(pre + 0.22 * written, mid, "resid_mid")
    assert len(model.hookpoints()) == 9
    reason = "the block scales what it adds to the stream, or adds more"
    assert model.missing_hookpoints()["blocks.1.hook_attn_out"] == reason
    with pytest.raises(CrossproofError, match=rf"'blocks\.\*\.hook_\*' asks.*attn_out.*{reason}"):
        model.hookpoints(["blocks.*.hook_*"])
    with pytest.raises(CrossproofError, match=f"'blocks.0.hook_mlp_out': {reason}"):
        value(model, "blocks.0.hook_mlp_out")


def rewired(build: Callable[[], PreTrainedModel], change: Callable[[Any], Any]) -> PreTrainedModel:
    """A model whose second block's forward is `change` of what it was."""
    model: Any = build()
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    blocks[1].forward = change(blocks[1].forward)
    return model


def test_a_stream_that_is_passed_by_is_refused_by_name() -> None:
    def with_shortcut(forward: Any) -> Any:
        return lambda x, *args, **kwargs: forward(x.clone(), *args, **kwargs) + 0.1 * x

    model = load_model(rewired(lambda: tiny("llama"), with_shortcut))
    assert "blocks.1.hook_resid_mid" not in model.available_hookpoints()
    assert "blocks.0.hook_resid_mid" in model.available_hookpoints()
    for patterns in (None, ["blocks.*.hook_resid_*"], ["blocks.1.hook_resid_mid"]):
        with pytest.raises(CrossproofError, match=r"'blocks\.1\.hook_resid_mid', which cannot be"):
            model.hookpoints(patterns)
    assert len(model.hookpoints(["blocks.*.mlp.hook_in", "blocks.*.hook_resid_p*"])) == 6


def test_a_stream_that_changes_between_blocks_is_refused() -> None:
    bare: Any = tiny("llama")
    bare.model.layers[1].register_forward_pre_hook(lambda _m, args: (2 * args[0], *args[1:]))
    with pytest.raises(CrossproofError, match="between block 0 and block 1"):
        load_model(bare)


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=64)
    for decoder in (False, True):
        config.is_decoder = decoder
        bare = BertLMHeadModel(config)
        if decoder:
            assert len(load_model(bare).hookpoints()) == 9
        else:
            with pytest.raises(CrossproofError, match="lets tokens see those behind them"):
                load_model(bare)


@pytest.mark.parametrize("kind", ["dory", "xlnet", "bart"])
def test_models_without_plain_blocks(kind: str) -> None:
    bare = tiny(kind)
    if kind == "bart":  # a decoder alone is one
        assert len(load_model(bare).hookpoints()) == 9
        return
    reason = {"dory": "more than once a pass", "xlnet": "keeps no list of blocks"}[kind]
    with pytest.raises(CrossproofError, match=reason):
        load_model(bare)


def test_a_pattern_of_absent_hookpoints_says_why() -> None:
    model = load_model(tiny("gpt_neox"))
    with pytest.raises(CrossproofError, match="run in parallel"):
        model.hookpoints(["blocks.*.hook_resid_mid"])
    assert len(model.hookpoints(["blocks.*.hook_resid_*"])) == 4  # it has no such place to lose
    mamba = load_model(tiny("mamba"))
    assert len(mamba.hookpoints()) == 3
    with pytest.raises(CrossproofError, match="has no MLP"):
        mamba.mlp(0)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("llama", torch.bfloat16), ("gpt2", torch.float16), ("gpt_neox", torch.float64)],
)
def test_other_precisions_have_the_same_hookpoints(kind: str, dtype: torch.dtype) -> None:
    bare = tiny(kind)
    names, activation = load_model(bare).available_hookpoints(), load_model(bare).mlp(0).activation
    model = load_model(bare, dtype=dtype)
    assert model.available_hookpoints() == names
    assert model.mlp(0).activation is activation


def test_a_stream_that_stays_in_single_precision() -> None:
    bare = tiny("mamba")
    assert bare.config.residual_in_fp32
    names = load_model(bare).available_hookpoints()
    assert load_model(bare, dtype=torch.bfloat16).available_hookpoints() == names


@pytest.mark.parametrize("kind", ["opt", "gemma2"])
def test_a_model_of_nan_keeps_its_hookpoints(kind: str) -> None:
    """Harvesting says where the NaN is."""
    bare = tiny(kind)
    names = load_model(bare).available_hookpoints()
    bare.get_input_embeddings().weight.data.fill_(float("nan"))
    assert load_model(bare).available_hookpoints() == names


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "gpt_neox"])
def test_values_are_those_of_transformer_lens(kind: str) -> None:
    """An independent reading of the same weights."""
    sources = pytest.importorskip("transformer_lens.model_bridge.sources")
    model = load_model(tiny(kind))
    bare = copy.deepcopy(model._bare)
    lens = sources.build_bridge_from_module(
        bare, type(bare).__name__, hf_config=bare.config, model_name=kind
    )
    with torch.no_grad():
        _, cache = lens.eval().run_with_cache(TOKENS)
    for name in model.available_hookpoints():
        assert_equal(value(model, name), cache[name].flatten(2), name)  # z: head by head


@pytest.mark.slow
def test_every_architecture_is_exact_or_refused() -> None:
    """`examine` raises where values or replacements are not the model's own."""
    page = architectures.PAGE.read_text(encoding="utf-8")
    assert [row.line() for row in architectures.rows() if row.line() not in page] == []


@pytest.mark.parametrize("kind", ["falcon", "gemma3_text", "gpt2", "llama", "mixtral", "xlnet"])
def test_the_page_of_models_is_up_to_date(kind: str) -> None:
    assert architectures.examine(kind).line() in architectures.PAGE.read_text(encoding="utf-8")
