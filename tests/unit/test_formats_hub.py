"""Dictionaries by name: of a Hub on this machine, and of SAELens's list of releases."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from foreign_layouts import LAYOUTS, D, sae_draws
from golden_formats import FIXTURES
from hub_server import COMMIT, HubServer, serving
from safetensors.torch import save_file

import crossproof
from crossproof.cli import main
from crossproof.crosscoder.formats import published
from crossproof.crosscoder.formats.hub import HubPlace
from crossproof.crosscoder.formats.importing import ImportNotice
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants

    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as server:
        template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        yield server


def put(hub: HubServer, repository: str, fixture: str, inside: str = "") -> Path:
    folder = hub.repository(repository) / inside
    shutil.copytree(FIXTURES / fixture / "dictionary", folder, dirs_exist_ok=True)
    return folder


def refused(name: str, model: LanguageModel) -> str:
    with pytest.raises(CrossproofError) as caught:
        crossproof.import_dictionary(name, model)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_places() -> None:
    assert HubPlace.of("hf:a/b") == HubPlace("a/b")
    assert HubPlace.of("hf:a/b@v1:c/d/") == HubPlace("a/b", "c/d", "v1")
    assert HubPlace.of("hf://a/b:c") == HubPlace("a/b", "c")
    assert str(HubPlace("a/b", "c", "v")) == "hf:a/b@v:c"
    for wrong in ("hf:", "hf:a/b/c", "hf:a@", "hf:@v"):
        with pytest.raises(CrossproofError, match="is no place of the Hub"):
            HubPlace.of(wrong)


def test_only_what_is_needed_is_downloaded_once(
    hub: HubServer, language_models: dict[str, LanguageModel]
) -> None:
    model = language_models["llama"]
    saved = put(hub, "org/saes", "sparsify-sae")
    shutil.copytree(saved / "layers.1", saved / "layers.0")
    for name in ("optimizer_0.pt", "lr_scheduler_0.pt", "config.json", "README.md"):
        (hub.root / "org/saes" / name).write_text("{}")
    name = "hf:org/saes:layers.1"
    crosscoder, provenance = crossproof.import_dictionary(name, model)
    assert crosscoder.hookpoints.names == ("blocks.1.hook_resid_post",)
    assert sorted(hub.downloads()) == ["cfg.json", "sae.safetensors"]
    (origin,) = provenance.training["imported"]
    assert origin["path"] == f"hf:org/saes@{COMMIT}:layers.1"
    local, _ = crossproof.import_dictionary(FIXTURES / "sparsify-sae" / "dictionary", model)
    assert torch.equal(crosscoder.W_enc, local.W_enc)
    hub.asked.clear()
    crossproof.import_dictionary(f"hf:org/saes@{COMMIT}:layers.1", model)
    assert hub.downloads() == []
    both = crossproof.import_dictionaries("hf:org/saes", model)
    assert [*both] == ["layers.0", "layers.1"]
    (origin,) = both["layers.0"][1].training["imported"]
    assert origin["path"] == f"hf:org/saes@{COMMIT}:layers.0"


def test_an_interrupted_download_goes_on(
    hub: HubServer, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 512)
    put(hub, "org/one", "saelens-standard")
    hub.breaks["sae_weights.safetensors"] = 1
    crosscoder, _ = crossproof.import_dictionary("hf:org/one", gpt_neo)
    ranges = [line for line in hub.asked if "bytes=" in line and "sae_weights" in line]
    assert len(ranges) == 1
    assert int(ranges[0].rpartition("bytes=")[2].rstrip("-")) > 0
    local = FIXTURES / "saelens-standard" / "dictionary"
    assert torch.equal(crosscoder.W_dec, crossproof.import_dictionary(local, gpt_neo)[0].W_dec)


def test_what_the_hub_refuses_is_said(hub: HubServer, gpt_neo: LanguageModel) -> None:
    put(hub, "org/open", "saelens-standard", "layer_3/one")
    (hub.repository("org/gated") / ".gated").touch()
    (hub.repository("org/private") / ".private").touch()
    hub.repository("org/empty")
    assert "accept its conditions" in refused("hf:org/gated", gpt_neo)
    for name in ("private", "nothing"):
        said = refused(f"hf:org/{name}", gpt_neo)
        assert "no repository of the Hugging Face Hub that you can see" in said
    assert "has no revision 'v9'" in refused("hf:org/open@v9", gpt_neo)
    assert "Nearest: layer_3/one" in refused("hf:org/open:layer_3/two", gpt_neo)
    assert "It has layer_3/one." in refused("hf:org/open:x", gpt_neo)
    assert "Choose a repository with dictionaries" in refused("hf:org/empty", gpt_neo)
    for number in range(41):
        path = hub.root / "org/open" / f"sae_{number}" / "sae_weights.safetensors"
        path.parent.mkdir()
        path.touch()
    assert "holds 42 dictionaries: name one folder" in refused("hf:org/open", gpt_neo)


def test_without_a_network_the_cache_serves(
    hub: HubServer, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    put(hub, "org/one", "saelens-standard", "layer_1")
    with pytest.warns(ImportNotice, match=rf"^hf:org/one@{COMMIT}:layer_1 does not say whether"):
        before, _ = crossproof.import_dictionary("hf:org/one:layer_1", gpt_neo)
    hub.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again, _ = crossproof.import_dictionary("hf:org/one:layer_1", gpt_neo)
    assert torch.equal(before.W_enc, again.W_enc)
    assert hub.asked == []
    assert "is not in the cache" in refused("hf:org/other", gpt_neo)


def test_a_lost_network_is_said_and_the_cache_serves(
    hub: HubServer, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    put(hub, "org/one", "saelens-standard")
    before, _ = crossproof.import_dictionary("hf:org/one", gpt_neo)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    again, _ = crossproof.import_dictionary("hf:org/one", gpt_neo)
    assert torch.equal(before.W_enc, again.W_enc)
    said = refused("hf:org/other", gpt_neo)
    assert "cannot be downloaded now" in said
    assert "check the network" in said


def params(folder: Path, seed: int = 0, width: int = D) -> Path:
    folder.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in sae_draws(seed).items()}
    arrays["threshold"] = np.full(len(arrays["b_enc"]), 0.1, np.float32)
    np.savez(folder / "params.npz", **arrays)
    return folder


def test_gemma_scope_is_read_where_it_was_trained(hub: HubServer, gpt_neo: LanguageModel) -> None:
    inside = "layer_1/width_20/average_l0_4"
    kinds = {
        "res": ("blocks.1.hook_resid_post",),
        "mlp": ("blocks.1.mlp.hook_out",),
        "att": ("blocks.1.attn.hook_z", "blocks.1.attn.hook_out"),
        "transcoders": ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    }
    for kind, names in kinds.items():
        repository = f"google/gemma-scope-2b-pt-{kind}"
        params(hub.repository(repository) / inside)
        crosscoder, _ = crossproof.import_dictionary(f"hf:{repository}:{inside}", gpt_neo)
        assert crosscoder.hookpoints.names == names
    params(hub.root / "google/gemma-scope-2b-pt-res/embedding/width_20/average_l0_4")
    name = "hf:google/gemma-scope-2b-pt-res:embedding/width_20/average_l0_4"
    crosscoder, _ = crossproof.import_dictionary(name, gpt_neo)
    assert crosscoder.hookpoints.names == ("blocks.0.hook_resid_pre",)
    expected = sae_draws(0)["W_enc"].T / D**0.5
    torch.testing.assert_close(crosscoder.W_enc[:, 0], expected, rtol=1e-6, atol=0)


def test_sets_of_circuit_tracer(hub: HubServer, gpt_neo: LanguageModel) -> None:
    put(hub, "org/plt", "circuit_tracer-plt")
    whole = crossproof.import_dictionaries("hf:org/plt", gpt_neo)
    assert [*whole] == ["layer_0", "layer_1"]
    (alone,) = crossproof.import_dictionaries("hf:org/plt:layer_1.safetensors", gpt_neo).values()
    assert torch.equal(alone[0].W_enc, whole["layer_1"][0].W_enc)
    assert alone[0].hookpoints.names == whole["layer_1"][0].hookpoints.names
    for layer in range(2):  # a set whose layers lie elsewhere
        params(hub.repository("google/scope") / f"layer_{layer}/width_20", seed=layer)
    uris = [f"hf://google/scope/layer_{i}/width_20/params.npz?revision=main" for i in range(2)]
    config = {"model_kind": "transcoder_set", "transcoders": uris, "model_name": "tiny"}
    config |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    (hub.repository("me/set") / "config.yaml").write_text(yaml.safe_dump(config))
    joined, provenance = crossproof.import_dictionary("hf:me/set", gpt_neo)
    assert len(joined.hookpoints) == 4
    assert len(provenance.training["imported"]) == 2
    config["transcoders"] = ["elsewhere"]
    (hub.root / "me/set/config.yaml").write_text(yaml.safe_dump(config))
    shutil.rmtree(hub.root.parent / "cache")
    assert "names 'elsewhere' as a transcoder" in refused("hf:me/set", gpt_neo)


@pytest.fixture
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package sae_lens that holds nothing but a list of releases."""
    content = {
        "gemma-scope-2b-pt-res": {
            "conversion_func": "gemma_2",
            "model": "gemma-2-2b",
            "repo_id": "google/gemma-scope-2b-pt-res",
            "saes": [{"id": "layer_1/small", "path": "layer_1/width_20/average_l0_4"}],
        },
        "gpt2-mlp-tm": {
            "conversion_func": None,
            "config_overrides": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
            "repo_id": "somebody/gpt2",
            "saes": [{"id": "one", "path": "sae", "norm_scaling_factor": 0.5}],
        },
        "temporal": {"conversion_func": "temporal", "repo_id": "a/b", "saes": [{"id": "x"}]},
    }
    package = tmp_path / "site" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it is not to be imported')")
    (package / "pretrained_saes.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


@pytest.mark.usefixtures("releases")
def test_releases_by_name(
    hub: HubServer, gpt_neo: LanguageModel, tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    params(hub.repository("google/gemma-scope-2b-pt-res") / "layer_1/width_20/average_l0_4")
    model = ["--model", str(model_folders["gpt-neo"])]
    out = tmp_path / "run"
    named = ["--release", "gemma-scope-2b-pt-res", "--id", "layer_1/small"]
    main(["import", *named, *model, "--out", str(out)])
    found = crossproof.Crosscoder.from_pretrained(out / "imported" / "crosscoder")
    assert found.hookpoints.names == ("blocks.1.hook_resid_post",)
    with pytest.raises(SystemExit, match="--release and --id belong together"):
        main(["import", "--release", "x", *model, "--out", str(tmp_path / "other")])

    folder = LAYOUTS["saelens scaled activations"]
    target = hub.repository("somebody/gpt2") / "sae"
    target.mkdir()
    forward = folder.save(target, 0)
    (target / "activation_scaler.json").unlink()
    assert "by how much" in refused("hf:somebody/gpt2:sae", gpt_neo)
    scaled, provenance = crossproof.import_dictionary("saelens:gpt2-mlp-tm/one", gpt_neo)
    assert provenance.training["imported"][0]["centred"] is True
    by_hand, _ = crossproof.import_dictionary(
        "hf:somebody/gpt2:sae", gpt_neo, centred=True, scale=0.5
    )
    assert torch.equal(scaled.W_enc, by_hand.W_enc)
    x = torch.randn(9, 1, D, dtype=torch.float64)
    x = x - x.mean(-1, keepdim=True)
    code, _ = forward(x * (0.5 / 0.37))  # the layout's own scale, 0.37, goes out
    torch.testing.assert_close(scaled.encode_dense(x.float()), code.float(), rtol=0, atol=1e-4)

    assert "lists no release 'gpt2-mlp'. Nearest: gpt2-mlp-tm" in refused(
        "saelens:gpt2-mlp/one", gpt_neo
    )
    assert "has no dictionary 'two'" in refused("saelens:gpt2-mlp-tm/two", gpt_neo)
    assert "(temporal) that crossproof does not read" in refused("saelens:temporal/x", gpt_neo)
    (tmp_path / "site" / "sae_lens" / "pretrained_saes.yaml").write_text("a: [1")
    assert "pretrained_saes.yaml cannot be read" in refused("saelens:a/b", gpt_neo)


ODD: dict[str, tuple[object, str]] = {
    "a list": ([1, 2], "SAELens lists no release 'odd'."),
    "no dictionaries": ({"repo_id": "a/b"}, "has no dictionary 'x'. It lists none."),
    "null": ({"repo_id": "a/b", "saes": None}, "has no dictionary 'x'. It lists none."),
    "words": ({"repo_id": "a/b", "saes": ["x"]}, "has no dictionary 'x'. It lists none."),
    "a mapping": ({"repo_id": "a/b", "saes": {"x": 1}}, "has no dictionary 'x'. It lists none."),
    "no repository": ({"saes": [{"id": "x"}]}, "names no repository of the release 'odd'"),
    "a form": ({"saes": [{"id": "x"}], "conversion_func": ["a"]}, "conversion_func as ['a'], not"),
    "a path": ({"saes": [{"id": "x", "path": 3}]}, "gives path as 3, not words"),
    "overrides": (
        {"repo_id": "a/b", "saes": [{"id": "x"}], "config_overrides": "x"},
        "SAELens's list, of 'odd', gives config_overrides as 'x', not a mapping",
    ),
    "a scale": (
        {"repo_id": "org/saes", "saes": [{"id": "x", "norm_scaling_factor": "big"}]},
        "norm_scaling_factor as 'big', not a finite number",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_entries_of_the_list(
    hub: HubServer, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    put(hub, "org/saes", "saelens-standard")
    entry, message = ODD[case]
    monkeypatch.setattr(published, "_releases", lambda: {"odd": entry})
    assert message in refused("saelens:odd/x", gpt_neo)


def test_releases_need_the_list(gpt_neo: LanguageModel) -> None:
    if "sae_lens" in sys.modules:
        pytest.skip("sae-lens is installed here")
    assert "SAELens is not installed here" in refused("saelens:a/b", gpt_neo)


def test_gemma_scope_2_says_where_it_reads(
    hub: HubServer, language_models: dict[str, LanguageModel]
) -> None:
    from foreign_layouts import gemma_scope_2_affine, json_to

    model = language_models["llama"]
    folder = hub.repository("google/gemma-scope-2-1b-pt")
    for inside in (
        "transcoder_all/layer_1_width_20_l0_small_affine",
        "resid_post/layer_0_width_20",
    ):
        (folder / inside).mkdir(parents=True)
        gemma_scope_2_affine(folder / inside, 0)
        (folder / inside / "config.json").unlink()
    made = crossproof.import_dictionaries("hf:google/gemma-scope-2-1b-pt", model)
    assert [each.hookpoints.names for each, _ in made.values()] == [
        ("blocks.0.hook_resid_post",),
        ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out"),
    ]
    sides = {
        "in": "model.layers.0.self_attn.o_proj.input",
        "out": "model.layers.0.self_attn.output",
    }
    hooks = {f"hf_hook_point_{side}": name for side, name in sides.items()}
    target = folder / "resid_post/layer_0_width_20"
    json_to(target / "config.json", {"hf_hook_point_in": "model.layers.0.mlp.output"})
    (one,) = crossproof.import_dictionaries(target, model).values()
    assert one[0].hookpoints.names == ("blocks.0.mlp.hook_out",)
    json_to(target / "config.json", hooks)
    (one,) = crossproof.import_dictionaries(target, model).values()
    assert one[0].hookpoints.names == ("blocks.0.attn.hook_z", "blocks.0.attn.hook_out")


def test_tensors_that_are_no_dictionary(hub: HubServer, gpt_neo: LanguageModel) -> None:
    folder = hub.repository("org/model")
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    assert "holds no dictionary that crossproof recognises" in refused("hf:org/model", gpt_neo)


def test_a_file_a_layer_of_gemma_scope_2_is_named_and_not_downloaded(
    hub: HubServer, gpt_neo: LanguageModel
) -> None:
    folder = hub.repository("google/gemma-scope-2-270m-pt") / "clt" / "width_262k_l0_big"
    folder.mkdir(parents=True)
    save_file({"w_enc": torch.ones(2, 2)}, folder / "params_layer_0.safetensors")
    (folder / "config.json").write_text('{"architecture": "jump_relu", "type": "clt"}')
    name = "hf:google/gemma-scope-2-270m-pt:clt/width_262k_l0_big"
    assert "a file a layer" in refused(name, gpt_neo)
    assert not any("params_layer" in line for line in hub.asked)


def test_a_checkpoint_comes_with_its_trainings_configuration(
    hub: HubServer, gpt_neo: LanguageModel
) -> None:
    folder = put(hub, "org/saes", "dictionary_learning-AutoEncoderTopK")
    (folder / "checkpoints").mkdir()
    (folder / "ae.pt").rename(folder / "checkpoints" / "ae_7.pt")
    found, _ = crossproof.import_dictionary("hf:org/saes:checkpoints/ae_7.pt", gpt_neo)
    assert found.hookpoints.names == ("blocks.1.hook_resid_post",)


@pytest.mark.parametrize("name", ["../../../../evil/sae_weights.safetensors", "/evil/ae.pt"])
def test_files_outside_the_repository_are_refused(
    hub: HubServer, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(hub, "org/saes", "sparsify-sae")
    siblings = [SimpleNamespace(rfilename=each) for each in ("layers.1/sae.safetensors", name)]
    info = SimpleNamespace(siblings=siblings, sha=COMMIT)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: info)
    content = (hub.root / "org/saes/layers.1/sae.safetensors").read_bytes()
    monkeypatch.setattr(
        "hub_server._Handler._file",
        lambda self, *_: self._body(200, content, {"X-Repo-Commit": COMMIT, "ETag": '"tag"'}),
    )
    assert "is not as the Hub answers (ValueError)" in refused("hf:org/saes", gpt_neo)
    assert not list(hub.root.parent.rglob("*evil*"))


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}"])
def test_what_is_no_hub_is_said(
    hub: HubServer, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr("hub_server._Handler._info", lambda self, _: self._body(200, body, {}))
    assert "what answered is not as the Hub answers" in refused("hf:org/saes", gpt_neo)
