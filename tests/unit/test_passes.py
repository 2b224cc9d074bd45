"""Patched passes that start in the middle: the numbers of whole passes, for fewer operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import N_BLOCKS, VOCABULARY, random_tokens, save_model, tuned_gpt_neo
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from crossproof.lm import LanguageModel, ModelPair, load_model, passes
from crossproof.lm.passes import CleanPass, clean_pass, starts_of

TOKENS, OTHERS = random_tokens(3, 9), random_tokens(3, 9, seed=1)
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": N_BLOCKS,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MORE: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **SIZES,
            intermediate_size=24,
            head_dim=8,
            num_key_value_heads=1,
            sliding_window=4,
            final_logit_softcapping=5.0,
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, intermediate_size=24, num_key_value_heads=1)
    ),
    "opt": lambda: OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=24, word_embed_proj_dim=16)),
    "opt-350m": lambda: OPTForCausalLM(
        OPTConfig(**SIZES, ffn_dim=24, word_embed_proj_dim=8, do_layer_norm_before=False)
    ),
}
KINDS = ("gpt2", "gpt-neo", "gpt-neox", "gpt-neox-sequential", "llama", *MORE)


@pytest.fixture(scope="module")
def models(language_models: dict[str, LanguageModel]) -> dict[str, LanguageModel]:
    built = dict(language_models)
    for kind, build in MORE.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            bare = build()
            for parameter in bare.parameters():
                parameter.data += 0.2 * torch.randn_like(parameter)
        built[kind] = load_model(bare.eval())
    return built


def clean(model: LanguageModel, names: list[str]) -> CleanPass:
    kept = starts_of(model, names)
    found = clean_pass(model, TOKENS, dict(zip(kept, values(model, *kept), strict=True)))
    assert isinstance(found, CleanPass)
    return found


def values(model: LanguageModel, *names: str, tokens: Tensor = TOKENS) -> tuple[Tensor, ...]:
    return model.activations(tokens, names).unbind(2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_from_the_middle_is_the_whole_pass(
    models: dict[str, LanguageModel], kind: str
) -> None:
    """At every hookpoint, to the last bit; no block before it is run."""
    model = models[kind]
    names = list(model.available_hookpoints())
    own = clean(model, names)
    assert torch.equal(own.losses, model.token_losses(TOKENS))
    others = values(model, *names, tokens=OTHERS)
    ran = blocks_run(model)
    for name, value in zip(names, others, strict=True):
        ran.clear()
        resumed = own.token_losses({name: value})
        before = [block for block in ran if f"blocks.{block}." < name]
        assert torch.equal(resumed, model.token_losses(TOKENS, {name: value})), name
        if name.startswith("blocks."):
            assert not [block for block in before if block < int(name.split(".")[1])], name


def blocks_run(model: LanguageModel) -> list[int]:
    """Numbers of the blocks whose norms or attentions are run, as they are run."""
    ran: list[int] = []
    for block in range(model.n_blocks):
        inside = model._site(f"blocks.{block}.attn.hook_in").module
        first = next(iter(inside.children()))

        def note(*_: object, block: int = block) -> None:
            ran.append(block)

        first.register_forward_pre_hook(note)
    return ran


@pytest.mark.parametrize("kind", ["gpt-neo", "gpt-neox", "gemma2"])
def test_divergences_are_those_of_log_probabilities(
    models: dict[str, LanguageModel], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where logits come in parts, of two or three positions, and no tensor holds all."""
    model = models[kind]
    names = ["blocks.0.attn.hook_in", "blocks.1.mlp.hook_out", "blocks.1.hook_resid_post"]
    others = values(model, *names, tokens=OTHERS)
    patches = [{name: value} for name, value in zip(names, others, strict=True)]
    whole = model.log_probabilities(TOKENS)[0, :, :-1]
    expected = []
    for patch in patches:
        other = model.log_probabilities(TOKENS, patch)[0, :, :-1]
        ce = -other.gather(2, TOKENS[:, 1:, None])[..., 0]
        expected.append((ce, (whole.exp() * (whole - other)).sum(-1)))
    own = clean(model, names)
    assert_equal(own.divergences(patches), expected)
    monkeypatch.setattr(passes, "LARGEST", 3 * 3 * VOCABULARY)
    assert model._resuming.head is not None
    sizes: list[int] = []
    head = model._bare.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[1]))
    torch.testing.assert_close(own.divergences(patches), expected, rtol=1e-5, atol=1e-6)
    losses = own.token_losses(patches[0])
    handle.remove()
    torch.testing.assert_close(losses, expected[0][0], rtol=1e-5, atol=1e-6)
    assert max(sizes) == 3
    assert sizes.count(3) == 2 * 5


def assert_equal(ours: list[tuple[Tensor, Tensor]], theirs: list[tuple[Tensor, Tensor]]) -> None:
    for mine, expected in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, mine, expected))


def test_a_pair_runs_the_patched_model_alone(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    tuned = save_model(tmp_path / "tuned", tuned_gpt_neo)
    pair = load_model(f"{model_folders['gpt-neo']},{tuned}")
    assert isinstance(pair, ModelPair)
    names = ["base/blocks.0.mlp.hook_out", "diff/blocks.1.hook_resid_mid"]
    kept = starts_of(pair, names)
    assert {name.split("/")[0] for name in kept} == {"base", "diff"}
    own = clean_pass(pair, TOKENS, dict(zip(kept, values(pair, *kept), strict=True)))
    assert torch.equal(own.losses, pair.token_losses(TOKENS))
    whole = pair.log_probabilities(TOKENS)[:, :, :-1]
    for name, value in zip(names, values(pair, *names, tokens=OTHERS), strict=True):
        patch = {name: value}
        assert torch.equal(own.token_losses(patch), pair.token_losses(TOKENS, patch))
        other = pair.log_probabilities(TOKENS, patch)[:, :, :-1]
        ((ce, kl),) = own.divergences([patch])
        targets = TOKENS[:, 1:, None].expand(2, -1, -1, -1)
        assert torch.equal(ce, -other.gather(3, targets)[..., 0].mean(0))
        assert torch.equal(kl, (whole.exp() * (whole - other)).sum(-1).mean(0))


def test_blocks_that_cannot_be_left_out_are_run(models: dict[str, LanguageModel]) -> None:
    """The second block adds what the first one computed beside its output."""
    bare = models["llama"]._bare
    first, second = bare.model.layers
    seen: list[Tensor] = []
    handles = [
        first.mlp.register_forward_hook(lambda _m, _a, out: seen.append(out)),
        second.mlp.register_forward_hook(lambda _m, _a, out: out + seen[-1]),
    ]
    try:
        model = load_model(bare)
        name = "blocks.1.attn.hook_in"
        (value,) = values(model, name, tokens=OTHERS)
        own = clean(model, [name])
        assert model._resuming.start([model._site(name)]) == {}
        assert torch.equal(
            own.token_losses({name: value}), model.token_losses(TOKENS, {name: value})
        )
    finally:
        for handle in handles:
            handle.remove()


def test_operations_are_those_of_the_blocks_behind(gpt_neo: LanguageModel) -> None:
    """A pass patched behind the last attention costs an MLP and the unembedding."""
    name = f"blocks.{N_BLOCKS - 1}.hook_resid_mid"
    (value,) = values(gpt_neo, name, tokens=OTHERS)
    own = clean(gpt_neo, [name])
    own.token_losses({name: value})
    with FlopCounterMode(display=False) as counter:
        own.token_losses({name: value})
    mlp, tokens = gpt_neo.mlp(0), TOKENS.numel()
    layers = 2 * mlp.W_in.numel() + gpt_neo.d_model * gpt_neo.vocab_size
    assert counter.get_total_flops() == 2 * tokens * layers
