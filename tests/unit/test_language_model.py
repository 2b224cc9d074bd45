from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from rounding import close
from safetensors.torch import load_file, save_file
from tiny_models import (
    ARCHITECTURES,
    CONTEXT,
    D_MODEL,
    END,
    N_BLOCKS,
    SEQUENTIAL,
    VOCABULARY,
    llama,
    random_tokens,
    save_model,
)
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model

TOKENS = random_tokens(3, 12)
OTHERS = random_tokens(3, 12, seed=1)


def hugging_face(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def value(model: LanguageModel, name: str, tokens: Tensor = TOKENS) -> Tensor:
    return model.activations(tokens, [name])[:, :, 0]


def streams(kind: str) -> list[str]:
    roles = ["resid_pre", "resid_post"] + (["resid_mid"] if kind in SEQUENTIAL else [])
    return [f"blocks.{i}.hook_{role}" for i in range(N_BLOCKS) for role in roles]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_logits_and_streams_are_those_of_hugging_face(
    language_models: dict[str, LanguageModel], model_folders: dict[str, Path], kind: str
) -> None:
    model = language_models[kind]
    with torch.no_grad():
        theirs = hugging_face(model_folders[kind])(TOKENS, output_hidden_states=True)
    # Bitwise on most processors; with MKL_CBWR=COMPATIBLE, equal products may round differently.
    rounding = close(8 * D_MODEL, theirs.logits, torch.float32)
    torch.testing.assert_close(model.logits(TOKENS), theirs.logits, **rounding)
    pre = model.activations(TOKENS, [f"blocks.{i}.hook_resid_pre" for i in range(N_BLOCKS)])
    torch.testing.assert_close(pre[:, :, 0], theirs.hidden_states[0])
    torch.testing.assert_close(pre[:, :, 1], theirs.hidden_states[1])


@pytest.mark.parametrize("kind", SEQUENTIAL)
def test_the_stream_is_the_sum_of_its_parts(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    names = ["hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"]
    acts = model.activations(TOKENS, [f"blocks.1.{name}" for name in names])
    pre, attn_out, mid, mlp_out, post = acts.unbind(dim=2)
    torch.testing.assert_close(pre + attn_out, mid)
    torch.testing.assert_close(mid + mlp_out, post)


def test_activations_come_in_the_order_asked_for(gpt_neo: LanguageModel) -> None:
    names = ["blocks.1.mlp.hook_in", "blocks.0.hook_resid_pre", "blocks.1.mlp.hook_in"]
    acts = gpt_neo.activations(TOKENS, names)
    assert torch.equal(acts[:, :, 0], acts[:, :, 2])
    assert torch.equal(acts[:, :, 1], value(gpt_neo, "blocks.0.hook_resid_pre"))
    weight = torch.ones(D_MODEL, requires_grad=True)
    (acts @ weight).sum().backward()
    assert weight.grad is not None


def test_the_forward_pass_stops_at_the_last_hookpoint_needed(gpt_neo: LanguageModel) -> None:
    ran: list[nn.Module] = []
    watch = nn.modules.module.register_module_forward_pre_hook(lambda m, _: ran.append(m))
    try:
        value(gpt_neo, "blocks.0.mlp.hook_in")
        early = len(ran)
        ran.clear()
        value(gpt_neo, "blocks.1.hook_resid_post")
    finally:
        watch.remove()
    assert early < len(ran)
    assert not any(module is gpt_neo._bare.get_output_embeddings() for module in ran)


def test_no_hook_outlives_an_error(gpt_neo: LanguageModel) -> None:
    calls = 0

    def fail(_place: int, _value: Tensor) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("in the middle")

    before = gpt_neo.logits(TOKENS)
    with pytest.raises(RuntimeError, match="in the middle"):
        gpt_neo.read(TOKENS, ["blocks.0.mlp.hook_in"], fail)
    with pytest.raises(CrossproofError):
        gpt_neo.logits(
            random_tokens(3, CONTEXT + 1),
            {"blocks.0.hook_mlp_out": torch.zeros(3, CONTEXT + 1, D_MODEL)},
        )
    assert torch.equal(gpt_neo.logits(TOKENS), before)
    assert calls == 1


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_replacing_a_value_by_itself_changes_nothing(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    model = language_models[kind]
    losses = model.token_losses(TOKENS)
    for name in (*streams(kind), "blocks.0.hook_mlp_out", "blocks.1.mlp.hook_in"):
        replaced = model.token_losses(TOKENS, {name: value(model, name)})
        torch.testing.assert_close(replaced, losses, msg=name)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_replaced_stream_carries_everything_downstream(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    """With another text's stream at any one point, the model says what it says of that text."""
    model = language_models[kind]
    expected = model.logits(OTHERS)
    assert not torch.allclose(model.logits(TOKENS), expected, atol=1e-2)
    for name in streams(kind):
        replaced = model.logits(TOKENS, {name: value(model, name, OTHERS)})
        torch.testing.assert_close(replaced, expected, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("block", range(N_BLOCKS))
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_removed_mlp_leaves_the_rest_of_the_stream(
    language_models: dict[str, LanguageModel], kind: str, block: int
) -> None:
    model = language_models[kind]
    post, mlp_out = f"blocks.{block}.hook_resid_post", f"blocks.{block}.hook_mlp_out"
    rest = value(model, post) - value(model, mlp_out)
    removed = model.logits(TOKENS, {mlp_out: torch.zeros_like(rest)})
    expected = model.logits(TOKENS, {post: rest})
    rounding = close(8 * D_MODEL, expected, torch.float32)
    torch.testing.assert_close(removed, expected, **rounding)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_an_empty_last_stream_says_the_same_everywhere(
    language_models: dict[str, LanguageModel], kind: str
) -> None:
    zeros = torch.zeros(*TOKENS.shape, D_MODEL)
    logits = language_models[kind].logits(TOKENS, {f"blocks.{N_BLOCKS - 1}.hook_resid_post": zeros})
    torch.testing.assert_close(logits, logits[:1, :1].expand_as(logits))


def test_replacements_are_left_as_they_were(gpt_neo: LanguageModel) -> None:
    given = torch.randn(*TOKENS.shape, D_MODEL)
    kept = given.clone()
    gpt_neo.logits(TOKENS, {"blocks.0.hook_resid_mid": given, "blocks.1.hook_resid_pre": given})
    assert torch.equal(given, kept)


def test_token_losses_are_next_token_cross_entropy(gpt_neo: LanguageModel) -> None:
    losses = gpt_neo.token_losses(TOKENS)
    logits = gpt_neo.logits(TOKENS)
    probabilities = functional.softmax(logits.double(), dim=-1)
    by_hand = -probabilities[1, 4, TOKENS[1, 5]].log()
    assert losses.shape == (3, 11)
    rounding = close(logits.shape[-1] + 4, 1 + logits.abs(), torch.float32)
    torch.testing.assert_close(losses[1, 4].double(), by_hand, **rounding)


def test_bad_arguments_are_named(gpt_neo: LanguageModel) -> None:
    with pytest.raises(CrossproofError, match=r"'blocks.0.hook_mlpout'.*blocks\.0\.hook_mlp_out"):
        gpt_neo.activations(TOKENS, ["blocks.0.hook_mlpout"])
    with pytest.raises(CrossproofError, match=r"\(3, 11, 16\), not \(3, 12, 16\)"):
        gpt_neo.logits(TOKENS, {"blocks.0.hook_mlp_out": torch.zeros(3, 11, D_MODEL)})
    with pytest.raises(CrossproofError, match="context"):
        gpt_neo.logits(random_tokens(1, CONTEXT + 1))
    with pytest.raises(CrossproofError, match="another tokenizer"):
        gpt_neo.logits(torch.full((1, 4), VOCABULARY))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_facts_about_the_model(language_models: dict[str, LanguageModel], kind: str) -> None:
    model = language_models[kind]
    assert (model.n_blocks, model.d_model) == (N_BLOCKS, D_MODEL)
    assert (model.vocab_size, model.context) == (VOCABULARY, CONTEXT)
    assert model.special_ids == {END}
    assert model.tokenizer is not None
    assert model.tokenizer("w5 w6 nonsense", add_special_tokens=False)["input_ids"] == [5, 6, 63]


def test_the_hash_follows_the_weights(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = model_folders["gpt2"]
    first = load_model(str(folder)).weights_hash
    assert len(first) == 16
    assert load_model(str(folder)).weights_hash == first
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    weights["transformer.h.0.mlp.c_fc.bias"][3] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert load_model(str(other)).weights_hash != first


def test_loading_is_quiet(
    model_folders: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in model_folders.values():
        load_model(str(folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_model_without_tokenizer_can_be_read(tmp_path: Path, kind: str) -> None:
    model = load_model(str(save_model(tmp_path, ARCHITECTURES[kind], tokenizer=False)))
    assert model.tokenizer is None
    assert model.special_ids == {END}
    assert value(model, "blocks.0.mlp.hook_in").shape == (3, 12, D_MODEL)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_precision_is_an_option_and_what_is_read_is_float32_at_least(
    model_folders: dict[str, Path], language_models: dict[str, LanguageModel], dtype: str
) -> None:
    model, single = load_model(model_folders["llama"], dtype=dtype), language_models["llama"]
    read = torch.float64 if dtype == "float64" else torch.float32
    assert model.dtype == getattr(torch, dtype)
    assert model.activation_dtype == read
    name = "blocks.1.mlp.hook_in"
    given = value(model, name)
    results = [given, model.logits(TOKENS), model.logits(TOKENS, {name: given}), model.mlp(0).W_in]
    results += [model.attention(1).W_Q]
    assert {result.dtype for result in results} == {read}
    torch.testing.assert_close(results[1], results[2])
    # Each of a few dozen operations in a row may lose half a unit in the last place.
    gap = (results[1] - single.logits(TOKENS)).abs().max() / single.logits(TOKENS).abs().max()
    assert gap < 40 * max(torch.finfo(model.dtype).eps, torch.finfo(torch.float32).eps)
    assert model.hookpoints() == single.hookpoints()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"no model folder '.*nowhere'"):
        load_model(str(tmp_path / "nowhere"))
    with pytest.raises(CrossproofError, match=r"config\.json"):
        load_model(str(tmp_path))


def test_a_name_that_is_neither_folder_nor_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("nobody/no-such-model", "not a name//at all"):
        with pytest.raises(CrossproofError, match="neither a model folder nor"):
            load_model(name)


def test_a_model_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(CrossproofError, match="BertForMaskedLM, not a causal language model"):
        load_model(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, llama)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CrossproofError, match=r"lack 1 tensors, 'model.layers.1.mlp.up_proj"):
        load_model(str(folder))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CrossproofError, match="missing or damaged"):
        load_model(str(folder))
    path.unlink()
    with pytest.raises(CrossproofError, match="missing or damaged"):
        load_model(str(folder))
