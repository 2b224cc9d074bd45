"""What cannot be imported is one clear sentence that names the thing."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_layouts import (
    D,
    F,
    batchtopk_crosscoder,
    cross_draws,
    crosscode,
    llamascopium_sae,
)
from golden_formats import FIXTURES, GOLDEN
from safetensors.torch import load_file, save_file

import crossproof
from crossproof.crosscoder.formats.importing import find_dictionaries
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

Damage = Callable[[Path], Any]
SAELENS_WEIGHTS = "sae_weights.safetensors"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "dictionary"


def copied(name: str, work: Path) -> Path:
    """A copy of a fixture's dictionary: the folder or file that is read."""
    shutil.copytree(FIXTURES / name / "dictionary", work)
    return find_dictionaries(work)[0][1]


def refused(model: LanguageModel, path: Path, message: str, *hookpoints: str) -> None:
    with pytest.raises(CrossproofError, match=message) as caught:
        crossproof.import_dictionary(path, model, hookpoints or None)
    text = str(caught.value)
    assert str(path.name) in text
    assert text.endswith(".")
    assert "\n" not in text


def changed(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def retensored(file: Path, **changes: Any) -> None:
    """Adds tensors, or takes those that are None away."""
    tensors = load_file(file) | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, file)


def truncated(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def data_files(folder: Path) -> list[Path]:
    suffixes = (".safetensors", ".pt", ".npz")
    return [path for path in sorted(folder.rglob("*")) if path.suffix in suffixes]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_truncated_file_is_named(
    language_models: dict[str, LanguageModel], work: Path, name: str
) -> None:
    copied(name, work)
    damaged = data_files(work)[-1]
    truncated(damaged)
    golden = GOLDEN[name]
    with pytest.raises(CrossproofError, match="damaged") as caught:
        crossproof.import_dictionary(work, language_models[golden.model], golden.given)
    assert str(damaged) in str(caught.value)


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if not name.startswith(("gemma", "circuit"))]
)
def test_missing_weights_are_named(
    language_models: dict[str, LanguageModel], work: Path, name: str
) -> None:
    copied(name, work)
    missing = data_files(work)[-1]
    missing.unlink()
    with pytest.raises(CrossproofError, match="is missing: the folder is not complete") as caught:
        crossproof.import_dictionary(work, language_models[GOLDEN[name].model])
    assert str(missing.with_suffix("")) in str(caught.value)


@pytest.fixture(scope="module")
def bundled() -> LanguageModel:
    return crossproof.load_model("bundled")


@pytest.mark.parametrize("name", GOLDEN)
def test_a_model_of_another_width_is_refused(bundled: LanguageModel, work: Path, name: str) -> None:
    copied(name, work)
    with pytest.raises(CrossproofError, match="vectors of width 16, 'bundled' has width 128"):
        crossproof.import_dictionary(work, bundled, GOLDEN[name].given)


SAELENS: dict[str, tuple[Damage, str]] = {
    "architecture": (lambda f: changed(f / "cfg.json", architecture="temporal"), "'temporal'"),
    "whitening": (
        lambda f: changed(f / "cfg.json", normalize_activations="covariance_whitening"),
        "normalises activations by 'covariance_whitening'",
    ),
    "a list for a normalisation": (
        lambda f: changed(f / "cfg.json", normalize_activations=[[]]),
        r"normalises activations by \[\[\]\]",
    ),
    "unknown scale": (
        lambda f: changed(f / "cfg.json", normalize_activations="expected_average_only_in"),
        "do not say by how much",
    ),
    "one head": (
        lambda f: changed(
            f / "cfg.json", metadata={"hook_name": "blocks.0.attn.hook_q", "hook_head_index": 1}
        ),
        "only what a head puts out",
    ),
    "values": (
        lambda f: changed(f / "cfg.json", metadata={"hook_name": "blocks.0.attn.hook_v"}),
        "other tokens take up by a pattern",
    ),
    "normalised heads": (
        lambda f: changed(
            f / "cfg.json",
            normalize_activations="layer_norm",
            metadata={"hook_name": "blocks.0.attn.hook_z"},
        ),
        "normalises the tokens of blocks.0.attn.hook_z",
    ),
    "normalised inside a norm": (
        lambda f: changed(
            f / "cfg.json",
            normalize_activations="layer_norm",
            metadata={"hook_name": "blocks.0.ln2.hook_normalized"},
        ),
        "lies inside a norm, before its weight",
    ),
    "a centred stream by its norm": (
        lambda f: changed(
            f / "cfg.json",
            normalize_activations="constant_norm_rescale",
            metadata={
                "hook_name": "blocks.0.hook_resid_pre",
                "model_from_pretrained_kwargs": {"center_writing_weights": True},
            },
        ),
        "divides each token of a centred residual stream by its norm",
    ),
    "k of what": (
        lambda f: changed(f / "cfg.json", architecture=None, k=4),
        "names no architecture, and a k",
    ),
    "k of none": (
        lambda f: changed(f / "cfg.json", architecture="topk", k=0),
        "24 latents and k = 0:",
    ),
    "reshaped": (
        lambda f: changed(f / "cfg.json", reshape_activations="sideways"),
        "reshapes activations by 'sideways'",
    ),
    "no hook": (lambda f: changed(f / "cfg.json", metadata={"a": 1}), "give its 1 hookpoint"),
    "activation": (
        lambda f: changed(f / "cfg.json", activation_fn_str="tanh-relu"),
        "'tanh-relu'",
    ),
    "finetuned": (lambda f: changed(f / "cfg.json", finetuning_scaling_factor=True), "finetuning"),
    "no k": (lambda f: changed(f / "cfg.json", architecture="topk"), "no whole number k"),
    "large k": (lambda f: changed(f / "cfg.json", architecture="topk", k=99), "k = 99"),
    "lacking tensor": (
        lambda f: retensored(f / SAELENS_WEIGHTS, b_enc=None),
        r"lacks b_enc \(it holds W_dec, W_enc, b_dec\)",
    ),
    "other shapes": (
        lambda f: retensored(f / SAELENS_WEIGHTS, b_enc=torch.zeros(3)),
        "do not fit each other: ",
    ),
    "NaN": (
        lambda f: retensored(f / SAELENS_WEIGHTS, b_enc=torch.full((24,), torch.nan)),
        "b_enc in .* holds NaN",
    ),
    "skip": (
        lambda f: retensored(f / SAELENS_WEIGHTS, affine_skip_connection=torch.ones(D, D)),
        "a linear skip connection, affine_skip_connection, that dictionaries of its kind do not",
    ),
    "skip of another width": (
        lambda f: retensored(f / SAELENS_WEIGHTS, W_skip=torch.ones(3, D)),
        r"the skip from hookpoint 0 to 0 has shape \[16, 3\]",
    ),
    "a factor that the flag denies": (
        lambda f: retensored(f / SAELENS_WEIGHTS, scaling_factor=torch.full((24,), 2.0)),
        "a scaling_factor that is not one",
    ),
    "a scale that the flag denies": (
        lambda f: (f / "activation_scaler.json").write_text('{"scaling_factor": 0.3}'),
        "a scaling_factor that is not one",
    ),
    "a scale of words": (
        lambda f: (
            changed(f / "cfg.json", normalize_activations="expected_average_only_in"),
            (f / "activation_scaler.json").write_text('{"scaling_factor": NaN}'),
        ),
        "scaling_factor as 'NaN', not a finite number",
    ),
    "a list": (
        lambda f: changed(f / "cfg.json", metadata=[1]),
        r"metadata as \[1\], not a mapping",
    ),
    "words for a flag": (
        lambda f: changed(f / "cfg.json", apply_b_dec_to_input="False"),
        "apply_b_dec_to_input as 'False', not true or false",
    ),
    "not a name": (
        lambda f: changed(f / "cfg.json", metadata={"hook_name": "a\nb"}),
        r"the hookpoint 'a\\nb'",
    ),
    "whole numbers": (
        lambda f: retensored(f / SAELENS_WEIGHTS, W_enc=torch.ones(D, 24, dtype=torch.int8)),
        "holds torch.int8: give unquantised weights",
    ),
    "not downloaded": (
        lambda f: (f / SAELENS_WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1"),
        "a Git LFS pointer",
    ),
    "thresholds of another architecture": (
        lambda f: retensored(f / SAELENS_WEIGHTS, threshold=torch.ones(24)),
        "holds 'threshold', which dictionaries of the kind",
    ),
    "gates of another architecture": (
        lambda f: retensored(f / SAELENS_WEIGHTS, r_mag=torch.ones(24)),
        "holds 'r_mag', which dictionaries of the kind",
    ),
    "a scale below zero": (
        lambda f: (
            changed(f / "cfg.json", normalize_activations="expected_average_only_in"),
            (f / "activation_scaler.json").write_text('{"scaling_factor": -2}'),
        ),
        "a scaling_factor of -2",
    ),
    "NaN thresholds": (
        lambda f: (
            changed(f / "cfg.json", architecture="jumprelu"),
            retensored(f / SAELENS_WEIGHTS, threshold=torch.full((24,), torch.nan)),
        ),
        "threshold in .* holds NaN",
    ),
}


@pytest.mark.parametrize("case", SAELENS)
def test_saelens(gpt_neo: LanguageModel, work: Path, case: str) -> None:
    damage, message = SAELENS[case]
    damage(copied("saelens-standard", work))
    refused(gpt_neo, work, message)


def test_an_activation_that_is_null_is_the_usual_one(gpt_neo: LanguageModel, work: Path) -> None:
    changed(copied("saelens-standard", work) / "cfg.json", activation_fn_str=None)
    found, _ = crossproof.import_dictionary(work, gpt_neo)
    assert found.config.sparsity == "relu"


def test_a_skip_of_zeros_changes_nothing(gpt_neo: LanguageModel, work: Path) -> None:
    folder = copied("saelens-transcoder", work)
    before, _ = crossproof.import_dictionary(work, gpt_neo)
    retensored(folder / SAELENS_WEIGHTS, W_skip=torch.zeros(D, D))
    changed(folder / "cfg.json", architecture="skip_transcoder")
    after, _ = crossproof.import_dictionary(work, gpt_neo)
    assert all(map(torch.equal, before.state_dict().values(), after.state_dict().values()))


def test_a_transcoder_encodes_what_it_reads_as_it_is(gpt_neo: LanguageModel, work: Path) -> None:
    changed(copied("saelens-transcoder", work) / "cfg.json", apply_b_dec_to_input=True)
    refused(gpt_neo, work, "apply_b_dec_to_input as true, which SAELens's transcoders do not")


def test_a_transcoder_between_widths(gpt_neo: LanguageModel, work: Path) -> None:
    folder = copied("saelens-transcoder", work)
    wide = {"W_dec": torch.ones(24, 5), "b_dec": torch.ones(5)}
    retensored(folder / SAELENS_WEIGHTS, **wide)
    refused(gpt_neo, work, "reads vectors of width 16 and writes vectors of width 5")


SPARSIFY: dict[str, tuple[Damage, str]] = {
    "activation": (lambda f: changed(f / "cfg.json", activation="spline"), "'spline'"),
    "no skip": (
        lambda f: changed(f / "cfg.json", skip_connection=True),
        "skip_connection as true, and .* holds no W_skip",
    ),
    "a skip": (
        lambda f: retensored(f / "sae.safetensors", W_skip=torch.ones(D, D)),
        "skip_connection as false, and .* holds a W_skip",
    ),
}


@pytest.mark.parametrize("case", SPARSIFY)
def test_sparsify(language_models: dict[str, LanguageModel], work: Path, case: str) -> None:
    damage, message = SPARSIFY[case]
    damage(copied("sparsify-sae", work))
    refused(language_models["llama"], work, message)


def test_sparsify_folders_that_name_no_module(
    language_models: dict[str, LanguageModel], work: Path
) -> None:
    folder = copied("sparsify-sae", work)
    folder.rename(work / "best")
    refused(language_models["llama"], work / "best", "give its 1 hookpoint")
    hooks = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
    refused(language_models["llama"], work / "best", "needs 1 hookpoint, but 2", *hooks)


def never_set(folder: Path) -> None:
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(state | {"threshold": torch.tensor(-1.0)}, folder / "ae.pt")


LEARNING: dict[str, tuple[Damage, str]] = {
    "class": (
        lambda f: changed(f / "config.json", trainer={"dict_class": "IdentityDict"}),
        "'IdentityDict'",
    ),
    "which topk": (lambda f: (f / "config.json").unlink(), "cannot be told from its tensors"),
    "threshold": (never_set, "was never set"),
    "place": (
        lambda f: changed(f / "config.json", trainer={"dict_class": "BatchTopKSAE", "layer": 1}),
        "does not say where in the model",
    ),
}


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_pre"),
        ("hook_resid_mid_layer_1", "blocks.1.hook_resid_mid"),
        ("mlp.hook_in_layer_1", "blocks.1.mlp.hook_in"),
        ("mlp_out_layer_1", "blocks.1.mlp.hook_out"),
    ],
)
def test_names_of_submodules(gpt_neo: LanguageModel, work: Path, name: str, hook: str) -> None:
    """A trainer names its submodule as it likes; hookpoints' own names say where it reads."""
    config = copied("dictionary_learning-AutoEncoder", work) / "config.json"
    trainer = json.loads(config.read_text())["trainer"]
    changed(config, trainer=trainer | {"submodule_name": name})
    made, _ = crossproof.import_dictionary(work, gpt_neo)
    assert made.hookpoints.names == (hook,)


def test_a_checkpoint_has_its_trainings_configuration(gpt_neo: LanguageModel, work: Path) -> None:
    folder = copied("dictionary_learning-AutoEncoderTopK", work)
    finished, _ = crossproof.import_dictionary(work, gpt_neo)
    (folder / "checkpoints").mkdir()
    step = (folder / "ae.pt").rename(folder / "checkpoints" / "ae_100.pt")
    found, _ = crossproof.import_dictionary(step, gpt_neo)
    assert found.hookpoints.names == finished.hookpoints.names
    assert torch.equal(found.W_enc, finished.W_enc)


@pytest.mark.parametrize("case", LEARNING)
def test_dictionary_learning(gpt_neo: LanguageModel, work: Path, case: str) -> None:
    damage, message = LEARNING[case]
    damage(copied("dictionary_learning-BatchTopKSAE", work))
    refused(gpt_neo, work, message)


@pytest.mark.parametrize(
    ("k", "message"),
    [(2.5, "is 2.5, not a whole number"), (3, "k = 3, and its config.json gives 4")],
)
def test_a_k_that_is_none_or_another(
    gpt_neo: LanguageModel, work: Path, k: float, message: str
) -> None:
    folder = copied("dictionary_learning-AutoEncoderTopK", work)
    state = torch.load(folder / "ae.pt", weights_only=True)
    torch.save(state | {"k": torch.tensor(k)}, folder / "ae.pt")
    refused(gpt_neo, work, message)


def test_what_is_null_is_absent(gpt_neo: LanguageModel, work: Path) -> None:
    folder = copied("dictionary_learning-AutoEncoder", work)
    changed(folder / "config.json", trainer=None)
    hook = ["blocks.1.hook_resid_post"]
    found, _ = crossproof.import_dictionary(work, gpt_neo, hook)
    assert found.n_latents == 24
    changed(folder / "config.json", trainer=[1, 2])
    refused(gpt_neo, work, r"trainer as \[1, 2\], not a mapping", *hook)
    (folder / "config.json").write_text("[" * 100_000)
    refused(gpt_neo, work, "cannot be read", *hook)


@pytest.mark.filterwarnings("ignore")  # PyTorch would not have quantised tensors any more
@pytest.mark.parametrize("kind", ["sparse", "quantised", "meta", "complex"])
def test_tensors_of_other_kinds(gpt_neo: LanguageModel, tmp_path: Path, kind: str) -> None:
    tensor = torch.randn(F, D)
    odd = {
        "sparse": tensor.to_sparse(),
        "quantised": torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "meta": tensor.to("meta"),
        "complex": tensor.to(torch.complex64),
    }[kind]
    torch.save({"encoder.weight": odd}, tmp_path / "ae.pt")
    refused(gpt_neo, tmp_path / "ae.pt", "'encoder.weight' in .* is a sparse, quantised, complex")


def test_weights_of_eight_bits(gpt_neo: LanguageModel, work: Path) -> None:
    """As they are they are numbers; with scales beside them, numbers of another unit."""
    file = copied("saelens-standard", work) / SAELENS_WEIGHTS
    coarse = {name: each.to(torch.float8_e4m3fn) for name, each in load_file(file).items()}
    save_file(coarse, file)
    found, _ = crossproof.import_dictionary(work, gpt_neo)
    assert torch.equal(found.W_dec[:, 0], coarse["W_dec"].float())
    save_file(coarse | {"W_enc_scale_inv": torch.ones(1)}, file)
    refused(gpt_neo, work, "eight bits and 'W_enc_scale_inv', which they are multiplied by")


def test_nothing_advises_to_trust_a_pickle(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    for content in (pickle.dumps(print), b"\x80\x02]q\x00(K\x01", b"PK\x03\x04", b""):
        (tmp_path / "ae.pt").write_bytes(content)
        refused(gpt_neo, tmp_path / "ae.pt", "save its state_dict alone.$")


def test_an_npz_that_is_called_npy(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    copied("gemma_scope-transcoder", tmp_path / "saved")
    params = (tmp_path / "saved" / "layer_1" / "params.npz").rename(tmp_path / "layer_1.npy")
    hooks = GOLDEN["gemma_scope-transcoder"].given
    found, _ = crossproof.import_dictionary(params, gpt_neo, hooks)
    assert found.hookpoints.names == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    with np.load(params) as arrays:
        turned = {name: array.astype(">f4") for name, array in dict(arrays).items()}
    with params.open("wb") as file:  # savez would call it .npz
        np.savez(file, **turned)
    again, _ = crossproof.import_dictionary(params, gpt_neo, hooks)
    assert torch.equal(again.W_dec, found.W_dec)
    np.save(params, np.zeros(3))
    refused(gpt_neo, params, "not an npz file of numbers", *hooks or ())


def test_a_folder_that_cannot_be_read(
    gpt_neo: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(CrossproofError, match=r"cannot be searched .*Permission denied"):
        crossproof.import_dictionary(tmp_path, gpt_neo)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a pickle ran code')",)


def test_no_pickle_is_trusted(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    for name, content in [("ae.pt", {"bias": Payload()}), ("model.pt", Payload())]:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content, protocol=2))
        refused(gpt_neo, path, "would have to run code", "blocks.0.hook_resid_pre")
    torch.save({"encoder.weight": "a word"}, tmp_path / "ae.pt")
    refused(gpt_neo, tmp_path / "ae.pt", "not a state_dict of tensors")


def test_crosscoders_of_dictionary_learning(gpt_neo: LanguageModel, work: Path) -> None:
    work.mkdir()
    decoupled = {"code_normalization_id": torch.tensor(5)}
    torch.save(cross_draws(0) | decoupled, work / "ae.pt")
    refused(gpt_neo, work, "has DECOUPLED codes", "a", "b", "c")
    fewer = cross_draws(0)
    fewer["encoder.weight"] = fewer["encoder.weight"][:2]
    torch.save(fewer, work / "ae.pt")
    refused(gpt_neo, work, "reads 2 layers and writes 3")
    torch.save(cross_draws(0), work / "ae.pt")
    (work / "config.json").write_text('{"encoder_layers": [0, 2, 1]}')
    refused(gpt_neo, work, "reads them in another order")
    (work / "config.json").unlink()
    refused(gpt_neo, work, "give its 3 hookpoints, in order")
    same = "blocks.0.hook_mlp_out", "blocks.0.mlp.hook_out", "blocks.1.mlp.hook_out"
    refused(gpt_neo, work, "has the hookpoint blocks.0.mlp.hook_out twice", *same)
    batchtopk_crosscoder(3)(work, 0)
    changed(work / "config.json", code_normalization_alpha_cc=None)
    refused(gpt_neo, work, "mixes two code normalisations", *("abc"))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("BatchTopkActivation", {}, "'BatchTopkActivation', which depends on"),
        ("ReLUActivation", {"is_folded": torch.tensor(False)}, "scaled activations"),
        (
            "ReLUActivation",
            {"_W_dec_LXoDo": torch.ones(F, 2, 3, D), "_W_enc_XiDiL": torch.ones(2, 3, D, F)},
            "of 2 models",
        ),
        ("ReLUActivation", {"_W_enc_XiDiL": torch.ones(D, F)}, "2 dimensions, not 4"),
        ("ReLUActivation", {"W_skip_XdXd": torch.ones(3 * D, 3 * D)}, "different scaling factors"),
        (
            "ReLUActivation",
            {"W_skip_XdXd": torch.ones(D, D), "folded_scaling_factors_X": torch.ones(1, 3)},
            "not that of 3 hookpoints",
        ),
    ],
)
def test_crosscode(
    gpt_neo: LanguageModel, work: Path, name: str, change: dict[str, Any], message: str
) -> None:
    work.mkdir()
    crosscode(name)(work, 0)
    state = torch.load(work / "model.pt", weights_only=True)
    torch.save(state | change, work / "model.pt")
    refused(gpt_neo, work, message, *("abc"))


CIRCUIT: dict[str, tuple[str, Damage, str]] = {
    "activation": (
        "plt",
        lambda f: (f / "config.yaml").write_text("model_kind: transcoder_set\nactivation: spline"),
        "the activation 'spline'",
    ),
    "topk without k": (
        "plt",
        lambda f: (f / "config.yaml").write_text("model_kind: transcoder_set\nactivation: topk"),
        "no k says of how many",
    ),
    "not downloaded": (
        "plt",
        lambda f: [(f / f"layer_{i}.safetensors").unlink() for i in range(2)],
        r"holds no layer_0\.safetensors: download",
    ),
    "lacking layer": (
        "clt",
        lambda f: (f / "W_enc_1.safetensors").unlink(),
        r"W_dec_0 .* has shape \[24, 2, 16\], not \[24, 1, 16\]",
    ),
    "lacking first layer": (
        "clt",
        lambda f: [(f / f"W_{part}_0.safetensors").unlink() for part in ("enc", "dec")],
        "lacks layer 0 of its cross-layer transcoder",
    ),
    "a gap": (
        "plt",
        lambda f: (f / "layer_1.safetensors").rename(f / "layer_2.safetensors"),
        "lacks layer 1 of its set: download it, or import",
    ),
    "a layer twice": (
        "plt",
        lambda f: shutil.copy(f / "layer_1.safetensors", f / "layer_01.safetensors"),
        r"holds layer 1 twice, as layer_01\.safetensors and layer_1\.safetensors",
    ),
    "lacking decoder": ("clt", lambda f: (f / "W_dec_1.safetensors").unlink(), "is missing"),
    "a skip across layers": (
        "clt",
        lambda f: retensored(f / "W_enc_0.safetensors", W_skip_0=torch.ones(D, D)),
        "saves no cross-layer transcoders with skips",
    ),
    "a threshold by another name": (
        "plt",
        lambda f: retensored(f / "layer_0.safetensors", threshold=torch.ones(24)),
        "holds 'threshold', which dictionaries",
    ),
    "broken yaml": ("clt", lambda f: (f / "config.yaml").write_text("a: [1"), "cannot be read"),
}


@pytest.mark.parametrize("case", CIRCUIT)
def test_circuit_tracer(gpt_neo: LanguageModel, work: Path, case: str) -> None:
    kind, damage, message = CIRCUIT[case]
    damage(copied(f"circuit_tracer-{kind}", work))
    refused(gpt_neo, work, message)


LOGS = "activation_function.log_jumprelu_threshold"
LLAMASCOPIUM: dict[str, tuple[Damage, str]] = {
    "lorsa": (
        lambda f: changed(f / "config.json", sae_type="lorsa"),
        "'lorsa': it replaces an attention",
    ),
    "token-wise": (
        lambda f: changed(f / "config.json", norm_activation="token-wise"),
        "normalises activations 'token-wise'",
    ),
    "batchtopk": (lambda f: changed(f / "config.json", act_fn="batchtopk"), "depends on the batch"),
    "no norm": (
        lambda f: changed(
            f / "config.json",
            hook_point_in="blocks.1.hook_resid_pre",
            hook_point_out="blocks.1.hook_resid_pre",
        ),
        "do not say by how much",
    ),
    "one norm of two": (
        lambda f: changed(f / "config.json", hook_point_out="blocks.1.hook_resid_pre"),
        "of some hookpoints alone",
    ),
    "thresholds of others": (
        lambda f: retensored(f / "sae_weights.safetensors", **{LOGS: torch.zeros(3)}),
        "do not fit each other",
    ),
    "thresholds of two": (
        lambda f: retensored(f / "sae_weights.safetensors", **{LOGS: torch.zeros(2, 3, 20)}),
        "has 3 dimensions",
    ),
    "a width of many digits": (
        lambda f: changed(f / "config.json", d_model=10**400),
        "d_model .* a finite number",
    ),
    "a factor of others": (
        lambda f: changed(f / "config.json", expansion_factor=3),
        "expansion_factor as 3, and .* has 20 latents of width 16",
    ),
    "thresholds that relu has not": (
        lambda f: changed(f / "config.json", act_fn="relu"),
        "which dictionaries of the kind",
    ),
    "glu": (lambda f: changed(f / "config.json", use_glu_encoder=True), "a gated linear unit"),
    "dcp": (
        lambda f: (f / "sae_weights.safetensors").rename(f / "sae_weights.dcp"),
        "a distributed checkpoint",
    ),
}


@pytest.mark.parametrize("case", LLAMASCOPIUM)
def test_llamascopium(gpt_neo: LanguageModel, work: Path, case: str) -> None:
    damage, message = LLAMASCOPIUM[case]
    work.mkdir()
    llamascopium_sae(work, 0)
    damage(work)
    refused(gpt_neo, work, message)


def test_cross_layer_transcoders_of_llamascopium(gpt_neo: LanguageModel, work: Path) -> None:
    copied("llamascopium-clt", work)
    weights = work / "sae_weights.safetensors"
    whole = load_file(weights)["W_D.1"]
    retensored(weights, **{"W_D.1": whole[:1].clone()})
    refused(gpt_neo, work, r"W_D\.1 is of 1 layers, 24 latents and width 16")
    retensored(weights, **{"W_D.1": whole})
    changed(work / "config.json", hook_points_out=["blocks.0.mlp.hook_out"])
    refused(gpt_neo, work, "as its 2 hookpoints")
    changed(work / "config.json", act_fn="layertopk", hook_points_out=["a", "b"])
    refused(gpt_neo, work, "'layertopk', which depends")


def test_gemma_scope(gpt_neo: LanguageModel, tmp_path: Path) -> None:
    work = tmp_path / "elsewhere"
    copied("gemma_scope-transcoder", work)
    params = (work / "layer_1" / "params.npz").rename(work / "params.npz")
    refused(gpt_neo, work, r"give its hookpoint \(an SAE\), or its input and output")
    refused(gpt_neo, work, "does not say its layer", "blocks.*.hook_resid_post")
    refused(gpt_neo, work, "but 3 are given", "a", "b", "c")
    with np.load(params) as arrays:
        whole = dict(arrays)
    np.savez(params, **(whole | {"W_dec": np.zeros((24, 2, 16), np.float32)}))
    refused(gpt_neo, work, "one layer of a cross-layer transcoder", "blocks.0.hook_resid_post")
    split = tmp_path / "crosscoder"
    split.mkdir()
    save_file({"w_enc": torch.ones(16, 24)}, split / "params_layer_0.safetensors")
    refused(gpt_neo, split, "a file a layer", "blocks.0.hook_resid_post")
    params.write_bytes(pickle.dumps({"W_enc": Payload()}))
    refused(gpt_neo, params, "damaged or not an npz file", "blocks.0.hook_resid_post")


def test_the_format_may_be_given(gpt_neo: LanguageModel, work: Path) -> None:
    copied("saelens-standard", work)
    found, _ = crossproof.import_dictionary(work, gpt_neo, format="saelens")
    assert found.n_latents == 24
    with pytest.raises(CrossproofError, match=r"recognises \(sparsify\)"):
        crossproof.import_dictionary(work, gpt_neo, format="sparsify")
    with pytest.raises(CrossproofError, match="There is no format 'other'"):
        find_dictionaries(work, "other")
    with pytest.raises(CrossproofError, match="No dictionaries were given"):
        crossproof.import_dictionary([], gpt_neo)


@pytest.mark.parametrize("file", [SAELENS_WEIGHTS, "cfg.json"])
def test_a_file_of_a_dictionary_names_its_folder(work: Path, file: str) -> None:
    folder = copied("saelens-standard", work)
    with pytest.raises(CrossproofError, match=f"of the dictionary in {re.escape(str(folder))}: gi"):
        find_dictionaries(folder / file)


def test_a_damaged_configuration_among_others_is_not_passed_over(work: Path) -> None:
    shutil.copytree(FIXTURES / "saelens-standard" / "dictionary", work / "a")
    shutil.copytree(work / "a", work / "b")
    config = work / "b" / "cfg.json"
    whole = config.read_bytes()
    config.write_bytes(b"\xef\xbb\xbf" + whole)  # a byte-order mark is no damage
    assert [path.name for _, path in find_dictionaries(work)] == ["a", "b"]
    config.write_bytes(whole[:-9])
    with pytest.raises(CrossproofError, match=r"b/cfg\.json cannot be read"):
        find_dictionaries(work)


def test_a_layer_is_put_into_an_old_configurations_hookpoint(
    gpt_neo: LanguageModel, work: Path
) -> None:
    config = copied("saelens-standard", work) / "cfg.json"
    old = {k: v for k, v in json.loads(config.read_text()).items() if k != "metadata"}
    old |= {"hook_point": "blocks.{layer}.hook_resid_post", "hook_point_layer": 1}
    config.write_text(json.dumps(old))
    crosscoder, _ = crossproof.import_dictionary(work, gpt_neo, centred=False)
    assert crosscoder.hookpoints.names == ("blocks.1.hook_resid_post",)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_a_number_above_zero(gpt_neo: LanguageModel, work: Path, scale: float) -> None:
    with pytest.raises(CrossproofError, match="give a number above 0"):
        crossproof.import_dictionary(work, gpt_neo, scale=scale)


SIZES = {
    "saelens-standard": ("cfg.json", ("d_in", "d_sae")),
    "saelens-transcoder": ("cfg.json", ("d_in", "d_sae", "d_out")),
    "sparsify-sae": ("cfg.json", ("d_in", "num_latents")),
    "dictionary_learning-AutoEncoder": ("config.json", ("activation_dim", "dict_size")),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_a_configuration_are_those_of_its_tensors(
    gpt_neo: LanguageModel, work: Path, name: str
) -> None:
    file, keys = SIZES[name]
    path = copied(name, work)
    written = (path / file).read_text()
    for key in keys:
        content = json.loads(written)
        holder = content.get("trainer", content)
        for value in (8, "16"):
            (path / file).write_text(json.dumps(content | {key: value}))
            if holder is not content:
                (path / file).write_text(json.dumps({"trainer": holder | {key: value}}))
            message = f"gives {key} as 8, and the tensors in .* have" if value == 8 else "whole"
            refused(gpt_neo, path, message, *GOLDEN[name].given or ())


def test_a_factor_decides_where_sparsify_counts_no_latents(
    language_models: dict[str, LanguageModel], work: Path
) -> None:
    golden = GOLDEN["sparsify-sae"]
    model, given = language_models[golden.model], golden.given or ()
    path = copied("sparsify-sae", work)
    content = json.loads((path / "cfg.json").read_text())
    tensors = load_file(path / "sae.safetensors")
    n_latents, width = tensors["encoder.weight"].shape
    for factor, number in ((n_latents / width, 0), (7, n_latents)):
        changed = content | {"expansion_factor": factor, "num_latents": number}
        (path / "cfg.json").write_text(json.dumps(changed))
        found, _ = crossproof.import_dictionary(path, model, golden.given)
        assert found.n_latents == n_latents
    (path / "cfg.json").write_text(json.dumps(content | {"expansion_factor": 7, "num_latents": 0}))
    refused(model, path, "gives expansion_factor as 7", *given)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize("name", GOLDEN)
def test_every_file_that_git_lfs_left_a_pointer_for_is_named(
    language_models: dict[str, LanguageModel], work: Path, name: str
) -> None:
    copied(name, work)
    golden = GOLDEN[name]
    for file in (path for path in work.rglob("*") if path.is_file()):
        content = file.read_bytes()
        file.write_text(LFS)
        with pytest.raises(CrossproofError, match="is a Git LFS pointer: run `git lfs pull`") as e:
            crossproof.import_dictionary(work, language_models[golden.model], golden.given)
        assert file.name in str(e.value)
        file.write_bytes(content)
