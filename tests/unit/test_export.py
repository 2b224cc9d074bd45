"""Exported dictionaries compute in their libraries what they compute here (tools/peer_reads.py)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import get_args, get_type_hints

import export_cases
import pytest
import torch
from export_cases import (
    CASES,
    EXPORTS,
    POST,
    Case,
    crosscoder,
    layers,
    library,
    numbers,
    transcoder,
)
from golden_formats import FIXTURES
from rounding import decode_close, encode_close
from safetensors.torch import load_file
from torch import Tensor

import crossproof
from crossproof.cli import main
from crossproof.commands.export import Export
from crossproof.crosscoder import Crosscoder
from crossproof.crosscoder.formats.hooks import resolve_hook
from crossproof.crosscoder.formats.importing import find_dictionaries
from crossproof.crosscoder.formats.registry import FORMATS
from crossproof.crosscoder.formats.writers import EXPORTS as WRITTEN
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

READER = Path(__file__).parents[2] / "tools" / "peer_reads.py"
PEERS = os.environ.get("CROSSPROOF_PEERS")


def files(folder: Path) -> dict[str, Path]:
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


def check_equal(case: Case, expected: dict[str, Tensor]) -> None:
    made = case.build()
    made.fold()
    x = case.at_hookpoints(made)
    latents = made.encode(x)
    code = expected["code"].view(-1, len(x), expected["code"].shape[-1])
    code = code.transpose(0, 1).flatten(1)
    if made.token_scale.kind:
        code = code * x[:, 0].std(1, keepdim=True)  # a library's latent is of the token's own scale
    assert 0.05 < float((code != 0).float().mean()) < 0.95
    assert torch.equal(latents.dense() != 0, code != 0)
    torch.testing.assert_close(latents.dense(), code, **encode_close(made, x))
    decoded = made.decode(latents, x)
    written = expected["reconstruction"].view(-1, *x.shape[::2])
    for place, theirs in zip(case.writes, written, strict=True):
        ours = decoded[:, made.hookpoints.index(place)]
        torch.testing.assert_close(ours, theirs, **decode_close(made, latents))


@pytest.mark.parametrize("name", CASES)
def test_a_library_computes_with_an_export_what_the_crosscoder_computes(
    tmp_path: Path, name: str
) -> None:
    export_cases.write(tmp_path, name)
    made, kept = files(tmp_path / name), files(EXPORTS / name)
    assert {*made} == {*kept} - {"expected.safetensors", "resaved.json"}
    for file, path in made.items():  # what the library has read is what is exported today
        if file.endswith(".pt"):
            ours, theirs = (torch.load(p, weights_only=True) for p in (path, kept[file]))
            assert all(map(torch.equal, ours.values(), theirs.values()))
            assert {*ours} == {*theirs}
        else:
            assert path.read_bytes() == kept[file].read_bytes(), file
    check_equal(CASES[name], load_file(EXPORTS / name / "expected.safetensors"))
    check_bytes(tmp_path / name / "dictionary", EXPORTS / name / "resaved.json")


def check_bytes(exported: Path, resaved: Path) -> None:
    """What the library itself writes of the dictionary that it has read is what was exported."""
    digests = json.loads(resaved.read_text())
    made = files(exported)
    for name, digest in digests.items():
        assert hashlib.sha256(made[name].read_bytes()).hexdigest() == digest, name
    unwritten = {"ae.pt", "config.json"} if "ae.pt" in made else {"config.yaml"}
    assert {*made} - {*digests} <= unwritten


@pytest.mark.parametrize("name", [name for name in CASES if "dictionary_learning" in name])
def test_a_state_dict_has_the_librarys_names_and_types_in_its_order(name: str) -> None:
    trainer = json.loads((EXPORTS / name / "dictionary" / "config.json").read_text())["trainer"]
    theirs = FIXTURES / f"dictionary_learning-{trainer['dict_class']}" / "dictionary"
    ours, saved = (
        [(key, tensor.dtype, tensor.dim()) for key, tensor in state.items()]
        for state in (
            torch.load(folder / "ae.pt", weights_only=True)
            for folder in (EXPORTS / name / "dictionary", theirs)
        )
    )
    assert ours == saved


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", ["gpt-neo", "llama"])
def test_what_is_exported_says_where_it_reads(
    language_models: dict[str, LanguageModel], name: str, model: str
) -> None:
    """Nobody is asked for --hookpoint, whatever the model calls its blocks: h or layers."""
    [(kind, path)] = find_dictionaries(EXPORTS / name / "dictionary")
    hooks = [hook for read in FORMATS.get(kind).read(path) for hook in read.hooks]
    found = {resolve_hook(language_models[model], str(hook)).hookpoint for hook in hooks}
    assert sorted(found) == sorted(CASES[name].build().hookpoints.names)


@pytest.mark.slow
@pytest.mark.skipif(PEERS is None, reason="CROSSPROOF_PEERS names no environment (tools/peers.py)")
def test_the_libraries_themselves_read_what_is_exported(tmp_path: Path) -> None:
    for name in CASES:
        export_cases.write(tmp_path, name)
    command = [str(Path(str(PEERS)) / "bin" / "python"), str(READER), str(tmp_path)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(command, check=True, env=environment)
    for name, case in CASES.items():
        check_equal(case, load_file(tmp_path / name / "expected.safetensors"))
        check_bytes(tmp_path / name / "dictionary", tmp_path / name / "resaved.json")


SAME_BYTES = {
    "sparsify-transcoder": ("layers.1.mlp/sae.safetensors", "layers.1.mlp/cfg.json"),
    "circuit_tracer-clt": ("W_dec_0.safetensors", "W_dec_1.safetensors", "config.yaml"),
}


@pytest.mark.parametrize("name", SAME_BYTES)
def test_what_a_library_saved_comes_back_byte_for_byte(
    tmp_path: Path, language_models: dict[str, LanguageModel], name: str
) -> None:
    """Imported and exported again; thresholds, kept as logarithms, may lose their last digit."""
    model = language_models["llama" if "sparsify" in name else "gpt-neo"]
    saved = FIXTURES / name / "dictionary"
    found, _ = crossproof.import_dictionary(saved, model)
    format = "sparsify" if "sparsify" in name else "circuit-tracer"
    crossproof.export(found, tmp_path / "out", format, "tiny")
    assert {*files(tmp_path / "out")} == {*files(saved)}
    for file in SAME_BYTES[name]:
        ours, theirs = (folder / file for folder in (tmp_path / "out", saved))
        if file.endswith(".yaml"):
            assert ours.read_text().replace("mlp.hook_out", "hook_mlp_out") == theirs.read_text()
        else:
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("rule", ["relu", "batch_topk"])
def test_crosscoders_of_several_hookpoints_come_back(
    tmp_path: Path, gpt_neo: LanguageModel, rule: str
) -> None:
    names = "blocks.0.hook_resid_mid", "blocks.1.hook_resid_pre"
    made = crosscoder(names, rule)
    wide = Crosscoder(made.config, made.hookpoints, gpt_neo.d_model)
    with torch.no_grad():
        for seed, weights in enumerate((wide.W_enc, wide.W_dec, wide.b_enc, wide.b_dec)):
            weights.copy_(numbers(*weights.shape, seed=seed))
        for buffer in wide.sparsity.buffers():
            buffer.fill_(0.5)
    crossproof.export(wide, tmp_path / "out", "dictionary_learning")
    found, _ = crossproof.import_dictionary(tmp_path / "out", gpt_neo)
    assert found.hookpoints.names == names
    x = 2 * numbers(10, 2, gpt_neo.d_model, seed=3)
    latents = wide.encode(x)
    assert torch.equal(found.encode(x).indices, latents.indices)
    torch.testing.assert_close(found(x), wide(x), **decode_close(wide, latents))


def test_joined_saes_are_taken_apart(tmp_path: Path) -> None:
    names = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
    joined = crosscoder(names, "topk", groups=2)
    half = joined.n_latents // 2
    with torch.no_grad():
        for weights in (joined.W_enc, joined.W_dec):
            weights[:half, 1] = 0
            weights[half:, 0] = 0
    folders = crossproof.export(joined, tmp_path / "out", "saelens")
    assert [folder.name for folder in folders] == [*names]
    tensors = load_file(folders[1] / "sae_weights.safetensors")
    joined.fold()
    assert torch.equal(tensors["W_dec"], joined.W_dec[half:, 1])
    assert torch.equal(tensors["b_dec"], joined.b_dec[1])


def unset() -> Crosscoder:
    made = crosscoder(POST, "batch_topk")
    next(made.sparsity.buffers()).fill_(-1)
    return made


def skipping_sae() -> Crosscoder:
    made = crosscoder(POST, "relu")
    made.add_skip(0, 0, torch.ones(8, 8))
    return made


def of_heads() -> Crosscoder:
    made = crosscoder(("blocks.0.attn.hook_z", "blocks.0.attn.hook_out"), "relu")
    with torch.no_grad():
        made.W_enc[:, 1], made.W_dec[:, 0], made.b_dec[0] = 0, 0, 0
    return made


def one_layer_of_two() -> Crosscoder:
    return transcoder("relu")


def mixed_layers() -> Crosscoder:
    made = layers("relu", crossing=True)
    with torch.no_grad():
        made.W_dec[-1, 1] = 1  # a latent of layer 1 writes layer 0
    return made


PAIR = "blocks.0.hook_resid_mid", "blocks.1.hook_resid_mid"
REFUSED = {
    "hookpoints": (lambda: crosscoder(PAIR, "relu"), "saelens", "read 2 hookpoints and write 2"),
    "no threshold": (unset, "saelens", "was never set"),
    "signed": (lambda: crosscoder(POST, "signed_topk"), "saelens", "rule is signed_topk"),
    "topk transcoder": (
        lambda: transcoder("topk"),
        "saelens",
        "rule is topk, and such a dictionary has relu",
    ),
    "sae with a skip": (skipping_sae, "saelens", "only transcoders have linear skips"),
    "groups": (lambda: crosscoder(POST, "topk", groups=4), "saelens", "of each of several groups"),
    "heads": (of_heads, "saelens", "what attention's heads put out"),
    "normalised": (export_cases.normalised, "sparsify", "normalises each token"),
    "batch_topk": (
        lambda: crosscoder(POST, "batch_topk"),
        "sparsify",
        "as batch_topk is in inference",
    ),
    "a stream inside": (
        lambda: crosscoder(PAIR[:1], "topk"),
        "sparsify",
        "not the output of a mod",
    ),
    "skip": (skipping_sae, "dictionary_learning", "a linear skip"),
    "thresholds": (
        lambda: crosscoder(PAIR, "jumprelu"),
        "dictionary_learning",
        "thresholds of their own",
    ),
    "topk crosscoder": (lambda: crosscoder(PAIR, "topk"), "dictionary_learning", "rule is topk"),
    "topk set": (
        lambda: transcoder("topk"),
        "circuit-tracer",
        "rule is topk, and such a dictionary has relu",
    ),
    "topk of all layers": (lambda: layers("topk"), "circuit-tracer", "among several dictionaries"),
    "a lacking layer": (one_layer_of_two, "circuit-tracer", "every layer from 0 on"),
    "two of a layer": (
        lambda: dict.fromkeys("ab", layers("relu")),
        "circuit-tracer",
        "is the second of layer 0",
    ),
    "two across layers": (
        lambda: dict.fromkeys("ab", layers("relu", crossing=True)),
        "circuit-tracer",
        "one cross-layer transcoder alone",
    ),
    "an SAE": (lambda: crosscoder(POST, "relu"), "circuit-tracer", "one transcoder a layer"),
    "back to a layer": (mixed_layers, "circuit-tracer", "do not stand layer by layer"),
    "format": (lambda: crosscoder(POST, "relu"), "sae", "no export format 'sae'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    build, format, message = REFUSED[name]
    with pytest.raises(CrossproofError, match=message) as caught:
        crossproof.export(build(), tmp_path / "out", format)
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    origin = crossproof.Provenance("tiny", "0" * 16)
    crosscoder(POST, "relu").save_pretrained(run / "one" / "crosscoder", origin)
    crosscoder(POST, "batch_topk").save_pretrained(run / "two" / "crosscoder", origin)
    out = tmp_path / "out"
    main(["export", str(run), "--format", "saelens", "--out", str(out)])
    written = f"saelens: {out / 'one'}\nsaelens: {out / 'two'}\nNext: saelens loads "
    assert capsys.readouterr().out.startswith(written)
    assert '"model_name": "tiny"' in (out / "two" / "cfg.json").read_text()
    crosscoder(POST, "signed_topk").save_pretrained(run / "zero" / "crosscoder", origin)
    with pytest.raises(SystemExit, match="rule is signed_topk"):
        main(["export", str(run), "--format", "saelens", "--out", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()
    again = ["export", str(run), "--format", "saelens", "--name", "two", "--out", str(out)]
    with pytest.raises(SystemExit, match="is not empty: choose a new folder"):
        main(again)
    shutil.rmtree(out)
    main(again)
    assert {*files(out)} == {"cfg.json", "sae_weights.safetensors"}
    with pytest.raises(SystemExit, match="has no crosscoder 'three'"):
        main(["export", str(run), "--format", "sparsify", "--name", "three", "--out", str(out)])


def test_cases_are_those_of_the_fixtures() -> None:
    assert {folder.name for folder in EXPORTS.iterdir()} == {*CASES}
    assert get_args(get_type_hints(Export)["format"]) == WRITTEN
    assert {library(name) for name in CASES} == {*WRITTEN}
