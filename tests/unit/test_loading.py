"""Models as they are in other people's hands: loaded right, or refused in one sentence."""

from __future__ import annotations

import builtins
import contextlib
import http.server
import json
import pickle
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import random_tokens
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import crossproof
from crossproof.crosscoder import CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model
from crossproof.lm.loading import _parts, _two

TOKENS = random_tokens(2, 8)
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny Llama, to be spoilt."""
    return Path(shutil.copytree(model_folders["llama"], tmp_path / "mine"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path | str, **options: Any) -> str:
    """What `load_model` says; one sentence that holds no advice to run foreign code."""
    with pytest.raises(CrossproofError) as raised:
        load_model(folder, **options)
    said = str(raised.value)
    assert "\n" not in said
    assert "weights_only" not in said
    return said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rms_norm_eps": "1e-5"}, "'rms_norm_eps' expected float, got str"),
        ({"num_hidden_layers": 2.0}, "'num_hidden_layers' expected int, got float"),
        ({"num_attention_heads": 3}, "not a multiple of the number of attention heads"),
        ({"rope_parameters": {"rope_type": "linear"}}, "'factor'"),
        ({"hidden_act": "nothing"}, "activation function 'nothing'"),
        ({"dtype": "float13"}, "float13"),
        ({"model_type": "tomorrow"}, "'tomorrow', which is no model that transformers knows"),
        ({"num_hidden_layers": 3}, r"lack 9 tensors, 'model\.layers\.2"),
        ({"num_hidden_layers": 1}, r"hold 9 tensors that its config\.json leaves out"),
        ({"vocab_size": 65}, r"is \(64, 16\) where \(65, 16\) is asked for"),
        ({"num_key_value_heads": 4}, r"k_proj\.weight' is \(8, 16\) where \(16, 16\)"),
        ({"vocab_size": 10**12}, "far larger model than the weights"),
        ({"num_hidden_layers": 10**9}, "far larger model than the weights"),
        ({"hidden_size": -16}, "describes no model"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(
    folder: Path, config: dict[str, Any], said: str
) -> None:
    change(folder / "config.json", **config)
    with pytest.raises(CrossproofError, match=said):
        load_model(folder)


@pytest.mark.parametrize(
    "text", ["[]", '{"model_type": ', b'{"model_type": "llama", "x": "caf\xe9"}']
)
def test_a_configuration_that_is_no_json_object_is_named(folder: Path, text: str | bytes) -> None:
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert "is no JSON object" in refusal(folder)


@pytest.mark.parametrize(
    "stored",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": True},
        *({"quant_method": m, "bits": 4} for m in ("gptq", "awq", "hqq", "torchao", "mystery")),
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    ],
)
def test_quantised_weights_are_refused(folder: Path, stored: dict[str, Any]) -> None:
    change(folder / "config.json", quantization_config=stored)
    said = refusal(folder)
    assert f"quantised ({stored.get('quant_method', 'unknown')})" in said


def test_fp8_weights_are_unpacked(folder: Path) -> None:
    """By their scales, block by block: transformers multiplies, and the model is plain."""
    weights = load_file(folder / WEIGHTS)
    expected = {}
    for name in [k for k in weights if k.endswith("proj.weight")]:
        scale = weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scale.reshape(1, 1)
        expected[name] = weights[name].float() * scale
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    refused = refusal(folder)  # without the configuration's word the scales would be lost
    assert "leaves out" in refused
    assert "scale_inv" in refused
    stored = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    change(folder / "config.json", quantization_config=stored)
    model = load_model(folder)
    W_in = expected["model.layers.0.mlp.up_proj.weight"].T
    torch.testing.assert_close(model.mlp(0).W_in, W_in, rtol=1e-6, atol=0)


def test_an_empty_word_about_quantisation_is_none(folder: Path) -> None:
    change(folder / "config.json", quantization_config={})
    assert load_model(folder).n_blocks == 2


def test_weights_of_integers_are_refused(folder: Path) -> None:
    """Without the configuration's word their scales would be lost: 100 times too large here."""
    weights = load_file(folder / WEIGHTS)
    name = "model.layers.0.mlp.up_proj.weight"
    weights[name] = (100 * weights[name]).to(torch.int8)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert f"quantised ('{name}' holds I8)" in refusal(folder)


def test_quantised_and_absent_weights_in_memory_are_refused(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    model.model.layers[1].mlp.up_proj.weight = weight
    assert "quantised (uint8)" in refusal(model)
    assert "not in memory" in refusal(model.to("meta"))


@pytest.mark.parametrize(
    "option", [{"device": "meta"}, {"device": "nowhere"}, {"device": "cuda:99"}]
)
def test_devices_without_numbers_are_refused(folder: Path, option: dict[str, str]) -> None:
    assert f"{option['device']}'" in refusal(folder, **option)


ENDLESS = '{"tokenizer_class": "TokenizersBackend", "bos_token": "<end>", "unk_token": ""}'
"""transformers looks for the unknown token, which is unknown, and so on."""


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (WEIGHTS, POINTER, "git lfs pull"),
        (WEIGHTS, "", "missing or damaged"),
        ("tokenizer.json", POINTER, "git lfs pull"),
        ("tokenizer.json", '{"version": "1.0"', "tokenizer"),
        ("tokenizer_config.json", "{", "tokenizer"),
        ("tokenizer_config.json", "[]", "tokenizer"),
        ("tokenizer_config.json", ENDLESS, "tokenizer"),
    ],
)
def test_damaged_files_are_named(folder: Path, file: str, content: str, said: str) -> None:
    (folder / file).write_text(content)
    assert said in refusal(folder)


def test_a_tokenizer_of_a_newer_version_is_named(folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["type"] = "FutureBPE"
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert "update transformers and tokenizers" in refusal(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert load_model(folder).tokenizer is None


def test_a_tokenizer_can_be_given(folder: Path, language_models: dict[str, LanguageModel]) -> None:
    (folder / "tokenizer.json").write_text("{")
    given = language_models["gpt2"].tokenizer
    assert load_model(folder, tokenizer=given).tokenizer is given


class Foreign:
    """Unpickling one would call `print`."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return print, ("FOREIGN CODE",)


@pytest.mark.parametrize("pickled", [Foreign(), {"a": Foreign()}, ["no", "tensors"], 3])
def test_foreign_pickles_are_never_unpickled(
    folder: Path, pickled: object, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(pickled))
    refusal(folder)
    torch.save(pickled, folder / "pytorch_model.bin")
    refusal(folder)
    assert capsys.readouterr().out == ""


def test_pickled_tensors_are_read(folder: Path) -> None:
    expected = load_model(folder).weights_hash
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    assert load_model(folder).weights_hash == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["model.norm.weight"][3] = value
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert "'model.norm.weight'" in refusal(folder)


def test_weights_beyond_a_dtype_are_named(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["model.norm.weight"][3] = 1e5
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert "choose another dtype" in refusal(folder, dtype="float16")
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert "Models cannot run in int8" in refusal(folder, dtype="int8")


def test_code_of_the_model_is_run_only_when_trusted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a prompt")

    monkeypatch.setattr(builtins, "input", asked)
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "print('RAN')\n"
        "class MineConfig(LlamaConfig): model_type = 'mine'\n"
        "class MineForCausalLM(LlamaForCausalLM): config_class = MineConfig\n"
    )
    code = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    change(folder / "config.json", model_type="mine", auto_map=code)
    assert "--trust-remote-code" in refusal(folder)
    assert capsys.readouterr().out == ""
    expected = load_model_as_llama(folder)
    with contextlib.suppress(CrossproofError):  # of a class that nothing is known about
        assert torch.equal(load_model(folder, trust_remote_code=True).logits(TOKENS), expected)
    assert "RAN" in capsys.readouterr().out


def load_model_as_llama(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return LlamaForCausalLM.from_pretrained(folder)(TOKENS).logits


@pytest.mark.parametrize(
    "name", ["~nouser", "~nouser/model", "./nowhere", "/no/where", "a\0b", "x" * 5000]
)
def test_paths_that_lead_nowhere_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refusal(name)
    refusal(f"bundled+{name}")


def test_paths_are_names_too(folder: Path) -> None:
    expected = load_model(str(folder)).weights_hash
    assert load_model(folder).weights_hash == expected
    assert load_model(f"{folder}/").weights_hash == expected
    other = folder.rename(folder.with_name("a+b, ~ü%"))
    pair = load_model(f"{other},{other}")
    assert pair.weights_hash == f"{expected},{expected}"


def test_marks_in_the_names_of_folders_do_not_part_them(tmp_path: Path) -> None:
    odd, adapter = tmp_path / "a+b,c", tmp_path / "d+e"
    for folder in (odd, adapter):
        folder.mkdir()
    assert _parts(str(odd)) == (str(odd), None)
    assert _parts(f"{odd}+{adapter}") == (str(odd), str(adapter))
    assert _two(f"{odd},org/model") == (str(odd), "org/model")
    assert _two(f"org/model,{odd}") == ("org/model", str(odd))
    assert _parts("org/model+org/adapter") == ("org/model", "org/adapter")
    with pytest.raises(CrossproofError, match="does not name two models"):
        _two("a,b,c")


# --- GGUF


@pytest.fixture(scope="module")
def gguf_file(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gguf")
    from gguf_files import save_gguf

    model = LlamaForCausalLM.from_pretrained(model_folders["llama"])
    return save_gguf(model, tmp_path_factory.mktemp("gguf") / "Tiny.F32.gguf")


def test_a_gguf_file_is_a_model_like_any_other(
    gguf_file: Path, model_folders: dict[str, Path], tmp_path: Path, capfd: Any
) -> None:
    model = load_model(gguf_file)
    assert capfd.readouterr() == ("", "")
    expected = load_model(model_folders["llama"])
    torch.testing.assert_close(model.logits(TOKENS), expected.logits(TOKENS), rtol=0, atol=1e-5)
    assert model.weights_hash == expected.weights_hash
    assert model.tokenizer is not None
    assert model.tokenizer("#").input_ids[-1] == 3
    model._bare.save_pretrained(tmp_path)
    assert load_model(tmp_path).weights_hash == expected.weights_hash


def test_a_gguf_file_may_be_the_base_of_an_adapter(gguf_file: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    bare = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    bare.is_quantized = False
    get_peft_model(
        bare, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    ).save_pretrained(tmp_path)
    changed = load_model(f"{gguf_file}+{tmp_path}")
    assert changed.weights_hash != load_model(gguf_file).weights_hash


def test_gguf_files_that_cannot_be_read_are_named(
    gguf_file: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gguf_file.read_bytes()
    for content in (b"", b"GGUF", POINTER.encode(), whole[:200], whole[: len(whole) // 2]):
        path = tmp_path / "damaged.gguf"
        path.write_bytes(content)
        assert "damaged.gguf" in refusal(path)
    only = tmp_path / "only"
    only.mkdir()
    (only / "mine.gguf").write_bytes(whole)
    assert f"give its GGUF file, '{only}/mine.gguf'" in refusal(only)
    (folder / WEIGHTS).unlink()
    (folder / "mine.gguf").write_bytes(whole)
    assert f"give '{folder}/mine.gguf'" in refusal(folder)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'crossproof[gguf]'" in refusal(gguf_file)


# --- the Hub


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hub does: repositories are folders, and what else each name says."""

    root: Path

    def do_GET(self) -> None:
        body, headers, status = self.answer()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def answer(self) -> tuple[bytes, dict[str, str], int]:
        refusals = {"gated": (403, "GatedRepo"), "private": (401, "RepoNotFound")}
        for word, (status, code) in refusals.items():
            if word in self.path:
                return b"", {"X-Error-Code": code, "X-Error-Message": "restricted"}, status
        if "broken" in self.path:
            return b"", {}, 500
        owner, _, rest = self.path.partition("/resolve/")
        path = self.root / owner.strip("/") / rest.partition("/")[2]
        if not (self.root / owner.strip("/")).is_dir():
            return b"", {"X-Error-Code": "RepoNotFound"}, 404
        if not rest or not path.is_file():
            return b"", {"X-Error-Code": "EntryNotFound"}, 404
        tags = {"ETag": f'"{path.name}"', "X-Repo-Commit": "0" * 40}
        return path.read_bytes(), tags, 200

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a Hub that answers on this machine."""
    from huggingface_hub import constants

    handler = type("Here", (Hub,), {"root": tmp_path / "hub"})
    (tmp_path / "hub").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield tmp_path / "hub"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/gated", "accept its conditions"),
        ("org/private", "log in with `hf auth login`"),
        ("org/nothing", "neither a model folder nor"),
        ("org/adapter", "holds no config.json"),
    ],
)
def test_what_the_hub_refuses_is_said(hub: Path, name: str, said: str) -> None:
    (hub / "org" / "adapter").mkdir(parents=True)
    assert said in refusal(name)
    if name != "org/adapter":
        assert said.replace("model", "adapter") in refusal(f"bundled+{name}")


def test_a_model_of_the_hub_whose_weights_are_gated(
    hub: Path, model_folders: dict[str, Path]
) -> None:
    shutil.copytree(model_folders["llama"], hub / "org" / "open")
    assert load_model("org/open").weights_hash == load_model(model_folders["llama"]).weights_hash
    (hub / "org" / "half").mkdir()
    shutil.copy(model_folders["llama"] / "config.json", hub / "org" / "half")
    assert "missing" in refusal("org/half")


def test_a_gated_model_ends_a_command_with_one_sentence(hub: Path, tmp_path: Path) -> None:
    from crossproof.cli import main

    with pytest.raises(SystemExit, match="accept its conditions"):
        main(["import", str(tmp_path), "--model", "org/gated", "--out", str(tmp_path / "run")])


def test_a_run_whose_model_has_moved_says_how_to_name_it(folder: Path, tmp_path: Path) -> None:
    from crossproof.commands.models import ModelOptions
    from crossproof.training.config import RunConfig

    run = tmp_path / "run"
    config = CrosscoderConfig(n_latents=8, k=2)
    small = RunConfig(str(folder), crosscoder=config, steps=1, batch_tokens=8, dtype="bfloat16")
    crossproof.train(small, run, text=random_tokens(8, 16))
    model, stored = ModelOptions().load(run)
    assert (model.dtype, stored.dtype) == (torch.bfloat16, "bfloat16")
    with pytest.raises(CrossproofError, match="another --device") as caught:
        ModelOptions(device="meta").load(run)
    assert "--model" not in str(caught.value)  # which is where it was
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(CrossproofError, match="give --model"):
        ModelOptions().load(run)
    assert ModelOptions(str(moved)).load(run)[0].weights_hash == model.weights_hash
