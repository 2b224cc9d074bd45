"""The layer that a path names, and how the model was prepared that a dictionary was trained on."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_layouts import D, F, sae_draws
from golden_formats import FIXTURES
from safetensors.torch import load_file, save_file
from tiny_models import random_tokens

import crossproof
from crossproof.crosscoder.formats.hooks import path_layer
from crossproof.crosscoder.formats.importing import ImportNotice, find_dictionaries
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

LAYERS = {
    "dl/layer_1/width_16k/average_l0_71": 1,
    "layer_0_study/gemma/layer_1/width_16k": 1,
    "layer_0/layer_1": 1,
    "resid_post/layer_9_width_16k_l0_small/params.safetensors": 9,
    "gpt2/blocks.8.hook_resid_pre": 8,
    "SAE/resid_post_layer_3/trainer_0/ae.pt": 3,
    "mlp_out_layer12/10_32768": 12,
    "run/layers.10.mlp/seed1": 10,
    "run/h.0.attn": 0,
    "model.layers.11": 11,
    "set/layer_26.safetensors": 26,
    "Layer-07/sae": 7,
    "a/../layer_2/b": 2,
    "player_0_x": None,
    "layer_0_study": None,
    "multilayer_3": None,
    "n_layer_12": None,
    "layer_x/layer_": None,
    "width_16k/v1.2": None,
}


@pytest.mark.parametrize("path", LAYERS)
def test_the_layer_of_a_path_is_its_innermost_whole_component(path: str) -> None:
    assert path_layer(Path(path)) == LAYERS[path]


def gemma(folder: Path) -> Path:
    folder.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in sae_draws(0).items()}
    np.savez(folder / "params.npz", **arrays, threshold=np.zeros(F, np.float32))
    return folder


def reads(model: LanguageModel, path: Path, *hookpoints: str) -> tuple[str, ...]:
    return crossproof.import_dictionary(path, model, hookpoints or None)[0].hookpoints.names


def test_links_are_called_what_they_are_called(
    tmp_path: Path, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the Hub: files named by hashes, and folders of links to them."""
    stored = gemma(tmp_path / "blobs" / "layer_0")
    snapshot = tmp_path / "snapshots" / "abc" / "layer_1" / "width_16k"
    snapshot.mkdir(parents=True)
    (snapshot / "params.npz").symlink_to(stored / "params.npz")
    for path in (snapshot, snapshot / "params.npz", tmp_path / "snapshots"):
        names = reads(gpt_neo, path, "blocks.*.hook_resid_post")
        assert names == ("blocks.1.hook_resid_post",)
    (tmp_path / "layer_1").symlink_to(stored)
    assert reads(gpt_neo, tmp_path / "layer_1", "blocks.*.hook_resid_mid")[0][7] == "1"
    monkeypatch.chdir(stored)
    assert reads(gpt_neo, Path(), "blocks.*.hook_resid_mid")[0][7] == "0"


def test_a_link_to_a_module_of_sparsify_has_its_own_name(
    tmp_path: Path, language_models: dict[str, LanguageModel]
) -> None:
    shutil.copytree(FIXTURES / "sparsify-sae" / "dictionary", tmp_path / "saved")
    model = language_models["llama"]
    (tmp_path / "layers.0").symlink_to(tmp_path / "saved" / "layers.1")
    assert reads(model, tmp_path / "layers.0") == ("blocks.0.hook_resid_post",)
    assert reads(model, tmp_path / "layers.0", "blocks.*.mlp.hook_out")[0][7] == "0"
    (tmp_path / "saved" / "up").mkdir()
    (tmp_path / "saved" / "up" / "again").symlink_to(tmp_path / "saved")
    assert reads(model, tmp_path / "saved") == ("blocks.1.hook_resid_post",)  # a circle of links


def saelens(folder: Path, hook: str, legacy: bool = False, **meta: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(sae_draws(0), folder / "sae_weights.safetensors")
    config: dict[str, Any] = {"d_in": D, "d_sae": F, "apply_b_dec_to_input": False}
    meta |= {"hook_point" if legacy else "hook_name": hook}
    (folder / "cfg.json").write_text(json.dumps(config | (meta if legacy else {"metadata": meta})))
    return folder


def test_contradicting_layers_are_refused(tmp_path: Path, gpt_neo: LanguageModel) -> None:
    hook = "blocks.1.hook_resid_pre"
    path = saelens(tmp_path / "layer_0" / "sae", hook)
    with pytest.raises(CrossproofError, match=r"its path names layer 0 and its hookpoint .* 1"):
        reads(gpt_neo, path)
    with pytest.raises(CrossproofError, match="contradicts itself"):
        reads(gpt_neo, path, "blocks.*.hook_resid_pre")
    assert reads(gpt_neo, path, hook) == (hook,)
    other = saelens(tmp_path / "sae", hook, hook_layer=0)
    with pytest.raises(CrossproofError, match="its configuration names layer 0"):
        reads(gpt_neo, other)
    learning = tmp_path / "layer_0" / "trainer_0"
    shutil.copytree(FIXTURES / "dictionary_learning-AutoEncoder" / "dictionary", learning)
    config = json.loads((learning / "config.json").read_text())
    config["trainer"] |= {"layer": 1, "submodule_name": "elsewhere"}
    (learning / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrossproofError, match="its path names layer 0 and its configuration"):
        reads(gpt_neo, learning, "blocks.*.hook_resid_post")
    tracer = tmp_path / "layer_1"
    shutil.copytree(FIXTURES / "circuit_tracer-plt" / "dictionary", tracer)
    assert len(reads(gpt_neo, tracer)) == 4  # each file names its own layer


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize("kind", ["plt", "clt"])
def test_layers_of_circuit_tracer_may_have_leading_zeros(
    tmp_path: Path, gpt_neo: LanguageModel, kind: str, tensors: bool
) -> None:
    """It writes layer_1 and W_enc_1; others layer_01, with their tensors named either way."""
    saved = FIXTURES / f"circuit_tracer-{kind}" / "dictionary"
    shutil.copytree(saved, tmp_path / "set")
    for file in sorted((tmp_path / "set").glob("*.safetensors")):
        state = load_file(file)
        if tensors:
            state = {re.sub(r"_(\d)$", r"_0\1", name): value for name, value in state.items()}
        save_file(state, file.with_name(re.sub(r"_(\d)\.", r"_0\1.", file.name)))
        file.unlink()
    padded, usual = (
        crossproof.import_dictionary(path, gpt_neo)[0] for path in (tmp_path / "set", saved)
    )
    assert padded.hookpoints.names == usual.hookpoints.names
    for name, value in usual.state_dict().items():
        assert torch.equal(padded.state_dict()[name], value), name
    (tmp_path / "set" / "config.yaml").unlink()
    assert [kind for kind, _ in find_dictionaries(tmp_path / "set")] == ["circuit_tracer"]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_an_unfolded_norm(
    language_models: dict[str, LanguageModel], tmp_path: Path, kind: str
) -> None:
    """A LayerNorm's hook_normalized was behind weight and bias, an RMSNorm's before its weight."""
    model, hook = language_models[kind], "blocks.1.ln2.hook_normalized"
    kwargs = {"fold_ln": False, "center_writing_weights": False}
    path = saelens(tmp_path / "sae", hook, model_from_pretrained_kwargs=kwargs)
    after = model.activations(random_tokens(2, 6), ["blocks.1.mlp.hook_in"])[:, :, 0].flatten(0, 1)
    if kind == "llama":
        inside = after / model._bare.model.layers[1].post_attention_layernorm.weight.detach()
        crosscoder, _ = crossproof.import_dictionary(path, model)
    else:
        inside = after
        with pytest.warns(ImportNotice, match="fold_ln false"):
            crosscoder, _ = crossproof.import_dictionary(path, model)
    w = sae_draws(0)
    codes = (inside @ w["W_enc"] + w["b_enc"]).relu()
    torch.testing.assert_close(crosscoder.encode_dense(after[:, None]), codes, rtol=1e-4, atol=1e-4)
    named, _ = crossproof.import_dictionary(path, model, [hook])  # a name given is meant literally
    folded, _ = crossproof.import_dictionary(saelens(tmp_path / "folded", hook), model)
    assert torch.equal(named.W_enc, folded.W_enc)


CENTRED: dict[str, tuple[bool, dict[str, Any], bool, bool]] = {
    "version 5 and before, nothing said": (True, {}, True, True),
    "version 6, nothing said": (False, {}, False, True),
    "TransformerLens's default": (False, {"model_from_pretrained_kwargs": {}}, True, False),
    "said": (
        True,
        {"model_from_pretrained_kwargs": {"center_writing_weights": False}},
        False,
        False,
    ),
    "another class of model": (
        False,
        {"model_from_pretrained_kwargs": {}, "model_class_name": "AutoModelForCausalLM"},
        False,
        False,
    ),
}


@pytest.mark.parametrize("case", CENTRED)
def test_a_centred_stream(
    language_models: dict[str, LanguageModel], tmp_path: Path, case: str
) -> None:
    legacy, meta, centred, noticed = CENTRED[case]
    path = saelens(tmp_path / "sae", "blocks.1.hook_resid_pre", legacy, **meta)
    x, w = torch.randn(9, D) + 2, sae_draws(0)

    def codes(stream: bool) -> torch.Tensor:
        inside = x - x.mean(1, keepdim=True) if stream else x
        return (inside @ w["W_enc"] + w["b_enc"]).relu()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        crosscoder, provenance = crossproof.import_dictionary(path, language_models["gpt2"])
    notices = [str(each.message) for each in caught if each.category is ImportNotice]
    assert [("a centred" if centred else "the raw") in text for text in notices] == [True] * noticed
    assert provenance.training["imported"][0]["centred"] is centred
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(crosscoder.encode_dense(x[:, None]), codes(centred), **close)
    for said in (True, False):
        told, _ = crossproof.import_dictionary(path, language_models["gpt2"], centred=said)
        torch.testing.assert_close(told.encode_dense(x[:, None]), codes(said), **close)


def test_where_centring_changes_nothing(
    language_models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    """Behind a norm, and in models whose norms do not centre."""
    hooks = {
        "blocks.1.ln2.hook_normalized": "gpt2",
        "blocks.1.mlp.hook_in": "gpt2",
        "blocks.1.hook_resid_pre": "llama",
    }
    for number, (hook, kind) in enumerate(hooks.items()):
        path = saelens(tmp_path / str(number), hook, legacy=True)
        centred, _ = crossproof.import_dictionary(path, language_models[kind], centred=True)
        raw, _ = crossproof.import_dictionary(path, language_models[kind], centred=False)
        assert torch.equal(centred.W_enc, raw.W_enc)
