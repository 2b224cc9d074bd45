"""Adapters: merged into a base they must compute what peft computes; bad ones are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rounding import slack
from tiny_models import N_BLOCKS, N_NEURONS, gpt2, gpt_neo, llama, random_tokens, save_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from crossproof.errors import CrossproofError
from crossproof.lm import load_model


def save_adapter(base: Path, folder: Path, modules: list[str], rank: int = 3) -> Path:
    """A LoRA adapter of `base` with random weights, saved by peft itself."""
    bare: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = get_peft_model(bare, LoraConfig(r=rank, target_modules=modules))
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(model_folders: dict[str, Path]) -> Path:
    return model_folders["gpt-neo"]


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(base, tmp_path_factory.mktemp("adapters") / "mine", ["q_proj", "c_fc"])


def test_a_merged_adapter_computes_what_peft_computes(base: Path, adapter: Path) -> None:
    model = load_model(str(base), adapter=str(adapter))
    tokens = random_tokens(3, 9)
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter))
    with torch.no_grad():
        expected = reference(input_ids=tokens).logits
    rounding = slack(4 * N_NEURONS, expected, torch.float32)
    assert torch.allclose(model.logits(tokens), expected, rtol=0, atol=rounding)
    plain = load_model(str(base))
    assert not torch.allclose(model.logits(tokens), plain.logits(tokens), atol=1e-2)
    assert model.weights_hash != plain.weights_hash
    assert model.available_hookpoints() == plain.available_hookpoints()
    assert model.mlp(N_BLOCKS - 1).W_in.shape == plain.mlp(0).W_in.shape


TIED: dict[str, dict[str, object]] = {
    "unembedding": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["lm_head", "embed_tokens"]},
    "saved unembedding": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "tied adapters": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    "dora": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build() -> PreTrainedModel:
        model = llama()
        config = type(model.config)(**{**model.config.to_dict(), "tie_word_embeddings": True})
        return type(model)(config)

    return save_model(tmp_path_factory.mktemp("tied"), build)


@pytest.mark.parametrize("kind", TIED)
def test_adapters_on_tied_embeddings_compute_what_peft_computes(
    tied: Path, tmp_path: Path, kind: str
) -> None:
    config = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, **TIED[kind])  # type: ignore[arg-type]
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tied), config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path)
    tokens = random_tokens(2, 9)
    with torch.no_grad():
        expected = adapted.eval()(input_ids=tokens).logits
    model = load_model(tied, adapter=tmp_path)
    rounding = slack(4 * N_NEURONS, expected, torch.float32)
    assert torch.allclose(model.logits(tokens), expected, rtol=0, atol=rounding)
    half = load_model(tied, adapter=tmp_path, dtype="bfloat16").logits(tokens)
    assert (half - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_merge_that_computes_something_else_is_refused(
    tied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossproof.lm.adapters._untie", lambda _: None)
    save_adapter(tied, tmp_path, ["lm_head"])
    with pytest.raises(CrossproofError, match="computes something else once it is merged"):
        load_model(tied, adapter=tmp_path)


def test_the_three_spellings_load_the_same_model(base: Path, adapter: Path) -> None:
    by_keyword = load_model(str(base), adapter=str(adapter))
    by_plus = load_model(f"{base}+{adapter}")
    by_itself = load_model(str(adapter))  # its adapter_config.json names the base
    assert by_keyword.weights_hash == by_plus.weights_hash == by_itself.weights_hash
    assert by_keyword.name == by_plus.name == f"{base}+{adapter}"
    assert load_model(by_keyword.name).weights_hash == by_keyword.weights_hash


def test_an_adapter_of_another_width_is_refused(adapter: Path, tmp_path: Path) -> None:
    def wide() -> PreTrainedModel:
        model = gpt_neo()
        config = type(model.config)(**{**model.config.to_dict(), "hidden_size": 32})
        return type(model)(config)

    other = save_model(tmp_path / "wide", wide)
    with pytest.raises(CrossproofError, match="was not made for") as raised:
        load_model(str(other), adapter=str(adapter))
    assert "q_proj" in str(raised.value) or "c_fc" in str(raised.value)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize(
    "changed",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
        {"target_modules": ["wte"]},
        {"target_modules": ["lm_head"]},
    ],
)
def test_an_adapter_of_a_larger_vocabulary_says_how_to_get_it(
    base: Path, tmp_path: Path, changed: dict[str, list[str]]
) -> None:
    bare: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    rows = bare.get_input_embeddings().weight.shape[0]
    bare.resize_token_embeddings(rows + 8, mean_resizing=False)
    get_peft_model(bare, LoraConfig(**changed)).save_pretrained(tmp_path / "more")
    with pytest.raises(CrossproofError, match=rf"of {rows + 8} tokens, and .* has {rows}: resize"):
        load_model(str(base), adapter=str(tmp_path / "more"))


def test_an_adapter_of_another_architecture_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = save_model(tmp_path / "gpt2", gpt2)
    with pytest.raises(CrossproofError, match="was not made for"):
        load_model(str(other), adapter=str(adapter))


def test_an_adapter_with_a_tensor_too_few_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(adapter, tmp_path / "fewer"))
    tensors = load_file(folder / "adapter_model.safetensors")
    first = sorted(tensors)[0]
    save_file(
        {k: v for k, v in tensors.items() if k != first}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(CrossproofError, match="the adapter has None"):
        load_model(str(base), adapter=str(folder))


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(base: Path, adapter: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "lacking"))
    (folder / file).unlink()
    with pytest.raises(CrossproofError, match=file):
        load_model(str(base), adapter=str(folder))


def test_pickled_weights_are_not_read(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "pickled"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CrossproofError, match="nothing is unpickled"):
        load_model(str(base), adapter=str(folder))


def test_damaged_weights_are_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CrossproofError, match="damaged"):
        load_model(str(base), adapter=str(folder))


def test_an_unknown_kind_of_adapter_is_named(base: Path, adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "unknown"))
    config = json.loads((folder / "adapter_config.json").read_text()) | {"peft_type": "MAGIC"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CrossproofError, match="no adapter that peft knows"):
        load_model(str(base), adapter=str(folder))


def test_an_adapter_that_names_no_base_asks_for_one(adapter: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "orphan"))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CrossproofError, match="does not say which base"):
        load_model(str(folder))


def test_a_missing_adapter_is_named(base: Path) -> None:
    with pytest.raises(CrossproofError, match=r"no adapter folder '\./nowhere'"):
        load_model(str(base), adapter="./nowhere")


def test_offline_a_hub_adapter_is_asked_for_in_plain_words(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CrossproofError, match="check the name, or the network"):
        load_model(str(base), adapter="nobody/nothing")
