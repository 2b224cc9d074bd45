"""Files in the layout of ones that are published, to the byte where their records are public.

What is known of the published files are their configurations, the headers of their tensors and
their sizes; the weights here are our own.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_layouts import Draws, json_to, sae_draws
from golden_formats import FIXTURES
from safetensors.torch import save_file
from tiny_models import D_MODEL, gemma3, word_tokenizer

import crossproof
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel, load_model

F = 20
ROOT = Path(__file__).parents[2]
PEERS = os.environ.get("CROSSPROOF_PEERS")
GPT2_SMALL_RES_JB: dict[str, Any] = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.6.hook_resid_pre",
    "hook_point_layer": 6,
    "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext",
    "is_dataset_tokenized": False,
    "context_size": 128,
    "use_cached_activations": False,
    "cached_activations_path": "activations/Skylion007_openwebtext/gpt2-small/"
    "blocks.6.hook_resid_pre",
    "d_in": 768,
    "n_batches_in_buffer": 128,
    "total_training_tokens": 300000000,
    "store_batch_size": 32,
    "device": "mps",
    "seed": 42,
    "dtype": "torch.float32",
    "b_dec_init_method": "geometric_median",
    "expansion_factor": 32,
    "from_pretrained_path": None,
    "l1_coefficient": 8e-05,
    "lr": 0.0004,
    "lr_scheduler_name": None,
    "lr_warm_up_steps": 5000,
    "train_batch_size": 4096,
    "use_ghost_grads": False,
    "feature_sampling_window": 1000,
    "feature_sampling_method": None,
    "resample_batches": 1028,
    "feature_reinit_scale": 0.2,
    "dead_feature_window": 5000,
    "dead_feature_estimation_method": "no_fire",
    "dead_feature_threshold": 1e-08,
    "log_to_wandb": True,
    "wandb_project": "mats_sae_training_gpt2_small_resid_pre_5",
    "wandb_entity": None,
    "wandb_log_frequency": 100,
    "n_checkpoints": 10,
    "checkpoint_path": "checkpoints/y1t51byy",
    "d_sae": 24576,
    "tokens_per_buffer": 67108864,
    "run_name": "24576-L1-8e-05-LR-0.0004-Tokens-3.000e+08",
}
"""cfg.json of jbloom/GPT2-Small-SAEs-Reformatted, blocks.6.hook_resid_pre: 1,274 bytes."""
GPT2_SMALL_WEIGHTS = {
    "W_dec": {"dtype": "F32", "shape": [24576, 768], "data_offsets": [0, 75497472]},
    "W_enc": {"dtype": "F32", "shape": [768, 24576], "data_offsets": [75497472, 150994944]},
    "b_dec": {"dtype": "F32", "shape": [768], "data_offsets": [150994944, 150998016]},
    "b_enc": {"dtype": "F32", "shape": [24576], "data_offsets": [150998016, 151096320]},
}
"""The header of its sae_weights.safetensors, a file of 151,096,640 bytes."""
GEMMA_SCOPE_BYTES = 302_131_416
"""google/gemma-scope-2b-pt-res, layer_20/width_16k/average_l0_71/params.npz."""
GEMMA_SCOPE_2 = {
    "resid_post": ("output", "output", ["hook_resid_post"]),
    "mlp_out": (*2 * ("post_feedforward_layernorm.output",), ["hook_mlp_out"]),
    "attn_out": (*2 * ("self_attn.o_proj.input",), ["attn.hook_z", "attn.hook_out"]),
    "transcoder": (
        *("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
        ["mlp.hook_in", "hook_mlp_out"],
    ),
}
"""hf_hook_point_in and hf_hook_point_out of google/gemma-scope-2-4b-pt, by the kind of folder, and
where that is in a model."""


def header(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """The first bytes of a float32 safetensors file without metadata, and the whole file's size."""
    entries, end = {}, 0
    for name, shape in sorted(shapes.items()):
        size = 4 * int(np.prod(shape))
        offsets = [end, end + size]
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        end += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + end


@pytest.mark.parametrize("folder", [FIXTURES / "saelens-standard", None])
def test_saelens_weights_have_the_published_header_to_the_byte(
    tmp_path: Path, folder: Path | None
) -> None:
    """What the library saved, and what is exported, differ from it by sizes and numbers alone."""
    path = tmp_path / "sae_weights.safetensors"
    if folder is None:
        save_file(sae_draws(0), path)
    else:
        path = folder / "dictionary" / "sae_weights.safetensors"
    content = path.read_bytes()
    d, f = (16, 20) if folder is None else (16, 24)
    ours, size = header({"W_enc": (d, f), "W_dec": (f, d), "b_enc": (f,), "b_dec": (d,)})
    assert content.startswith(ours)
    assert len(content) == size
    d, f = GPT2_SMALL_RES_JB["d_in"], GPT2_SMALL_RES_JB["d_sae"]
    whole, size = header({"W_enc": (d, f), "W_dec": (f, d), "b_enc": (f,), "b_dec": (d,)})
    assert json.loads(whole[8:]) == GPT2_SMALL_WEIGHTS
    assert size == 151_096_640


def test_a_published_configuration_of_saelens_is_read(
    tmp_path: Path, gpt_neo: LanguageModel
) -> None:
    """Its own text but for the sizes and the layer; its stream was centred, and nothing says so."""
    assert len(json.dumps(GPT2_SMALL_RES_JB)) == 1_274
    hook = "blocks.1.hook_resid_pre"
    sizes = {"hook_point": hook, "hook_point_layer": 1, "d_in": D_MODEL, "d_sae": F}
    w = sae_draws(0)
    save_file(w, tmp_path / "sae_weights.safetensors")
    json_to(tmp_path / "cfg.json", GPT2_SMALL_RES_JB | sizes)
    with pytest.warns(UserWarning, match="taken as trained on a centred stream"):
        crosscoder, provenance = crossproof.import_dictionary(tmp_path, gpt_neo)
    assert crosscoder.hookpoints.names == (hook,)
    assert provenance.training["imported"][0]["config"]["context_size"] == 128
    x = torch.randn(6, 1, D_MODEL, generator=torch.Generator().manual_seed(9))
    centred = (x[:, 0] - x[:, 0].mean(1, keepdim=True)).double()
    code = ((centred - w.b_dec) @ w.W_enc + w.b_enc).relu()
    torch.testing.assert_close(crosscoder.encode(x).dense(), code.float(), rtol=1e-5, atol=1e-5)


def test_gemma_scopes_archive_has_the_published_size() -> None:
    """Five float32 arrays, stored without compression; the order of members no size shows."""
    path = FIXTURES / "gemma_scope-transcoder" / "dictionary" / "layer_1" / "params.npz"
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = {"W_enc.npy", "W_dec.npy", "b_enc.npy", "b_dec.npy", "threshold.npy"}
    assert {member.filename for member in members} == names
    assert all(member.compress_type == zipfile.ZIP_STORED for member in members)
    with np.load(path) as arrays:
        data = sum(arrays[name].nbytes for name in arrays.files)
    d, f = 2304, 16384
    published = 4 * (2 * d * f + 2 * f + d)
    assert path.stat().st_size - data == GEMMA_SCOPE_BYTES - published


@pytest.mark.parametrize("kind", GEMMA_SCOPE_2)
def test_a_published_configuration_of_gemma_scope_2_is_read(tmp_path: Path, kind: str) -> None:
    read, written, places = GEMMA_SCOPE_2[kind]
    about = {
        f"hf_hook_point_{s}": f"model.layers.1.{n}" for s, n in (("in", read), ("out", written))
    }
    about |= {"width": F, "model_name": "google/gemma-3-4b-pt", "architecture": "jump_relu"}
    about |= {"l0": 150, "affine_connection": False}
    folder = tmp_path / kind / "layer_1_width_16k_l0_big"
    folder.mkdir(parents=True)
    json_to(folder / "config.json", about | {"type": kind})
    model = load_model(gemma3(), tokenizer=word_tokenizer())
    shapes = {"w_enc": (D_MODEL, F), "w_dec": (F, D_MODEL), "b_enc": (F,), "b_dec": (D_MODEL,)}
    save_file(Draws(0, **shapes, threshold=(F,)), folder / "params.safetensors")
    crosscoder, _ = crossproof.import_dictionary(folder, model)
    assert crosscoder.hookpoints.names == tuple(f"blocks.1.{place}" for place in places)


@pytest.mark.parametrize("published", [0, 1])
def test_published_configurations_of_sparsify_are_read(
    tmp_path: Path, language_models: dict[str, LanguageModel], published: int
) -> None:
    """EleutherAI/sae-pythia-70m-32k, and sae-llama-3-8b-32x without its number of latents."""
    about: dict[str, Any] = {"expansion_factor": F / D_MODEL, "normalize_decoder": True}
    about |= ({"num_latents": F}, {})[published] | {"k": 4, "signed": False, "d_in": D_MODEL}
    folder = tmp_path / "layers.1.mlp"
    folder.mkdir()
    json_to(folder / "cfg.json", about)
    shapes = {"encoder.weight": (F, D_MODEL), "encoder.bias": (F,), "W_dec": (F, D_MODEL)}
    save_file(Draws(0, **shapes, b_dec=(D_MODEL,)), folder / "sae.safetensors")
    crosscoder, _ = crossproof.import_dictionary(folder, language_models["llama"])
    assert crosscoder.hookpoints.names == ("blocks.1.mlp.hook_out",)
    assert crosscoder.config.sparsity == "topk"


def test_skip_transcoders_whose_configuration_does_not_say_so_ask(
    tmp_path: Path, language_models: dict[str, LanguageModel]
) -> None:
    """EleutherAI/skip-transcoder-Llama-3.2-1B-131k: a skip, and no word of transcoding."""
    about = {"expansion_factor": F / D_MODEL, "normalize_decoder": True, "num_latents": F, "k": 4}
    about |= {"multi_topk": False, "skip_connection": True, "d_in": D_MODEL}
    folder = tmp_path / "layers.1.mlp"
    folder.mkdir()
    json_to(folder / "cfg.json", about)
    shapes = {"encoder.weight": (F, D_MODEL), "encoder.bias": (F,), "W_dec": (F, D_MODEL)}
    shapes |= {"b_dec": (D_MODEL,), "W_skip": (D_MODEL, D_MODEL)}
    w = Draws(0, **shapes)
    save_file(w, folder / "sae.safetensors")
    llama = language_models["llama"]
    with pytest.raises(CrossproofError, match=r"or its input and output \(a transcoder\)"):
        crossproof.import_dictionary(folder, llama)
    names = "blocks.*.mlp.hook_in", "blocks.*.hook_mlp_out"
    crosscoder, _ = crossproof.import_dictionary(folder, llama, names)
    assert crosscoder.hookpoints.names == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    x = torch.randn(5, 2, D_MODEL, generator=torch.Generator().manual_seed(9))
    latents = crosscoder.encode(x)
    found = crosscoder.decode(latents, x)[:, 1]
    expected = latents.dense() @ w["W_dec"] + w["b_dec"] + x[:, 0] @ w["W_skip"].T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(PEERS is None, reason="CROSSPROOF_PEERS names no environment (tools/peers.py)")
def test_the_libraries_still_save_the_fixtures(tmp_path: Path) -> None:
    """To the byte; entries of a configuration may come in another order, as SAELens's do."""
    command = [
        str(Path(str(PEERS)) / "bin" / "python"),
        "-m",
        "tools.format_fixtures",
        str(tmp_path),
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, cwd=ROOT, env=environment)
    kept = [path for path in FIXTURES.glob("*/dictionary/**/*") if path.is_file()]
    for path in kept:
        made = tmp_path / path.relative_to(FIXTURES)
        if path.suffix == ".json":
            assert json.loads(made.read_text()) == json.loads(path.read_text()), path
        else:
            assert made.read_bytes() == path.read_bytes(), path
    written = [path for path in tmp_path.glob("*/dictionary/**/*") if path.is_file()]
    assert len(written) == len(kept)
