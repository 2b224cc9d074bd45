"""Where imported dictionaries read: other spellings, norms, and several dictionaries at once."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dictionaries import dense
from safetensors.torch import save_file
from tiny_models import random_tokens
from torch import Tensor

import crossproof
from crossproof.crosscoder import Crosscoder
from crossproof.crosscoder.formats.hooks import resolve_hook
from crossproof.crosscoder.store import save_crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

D, F, K = 16, 20, 3


def bridge(model: LanguageModel) -> Any:
    """TransformerLens's own view of a copy of the model."""
    sources = pytest.importorskip("transformer_lens.model_bridge.sources")
    bare = copy.deepcopy(model._bare)
    return sources.build_bridge_from_module(
        bare, type(bare).__name__, hf_config=bare.config, model_name=model.name
    ).eval()


def weights(seed: int, width: int = F) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, width), "W_dec": (width, D), "b_enc": (width,), "b_dec": (D,)}
    return {n: 0.5 * torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def save_sae(folder: Path, hook: str, seed: int, kind: str = "standard", width: int = F) -> Path:
    folder.mkdir(parents=True)
    threshold = {"threshold": torch.full((width,), 0.4)} if kind == "jumprelu" else {}
    save_file(weights(seed, width) | threshold, folder / "sae_weights.safetensors")
    config = {"architecture": kind, "d_in": D, "d_sae": width, "metadata": {"hook_name": hook}}
    config |= {"k": K, "rescale_acts_by_decoder_norm": False}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "gpt-neo", "gpt-neox", "gpt-neox-sequential", "llama"])
@pytest.mark.parametrize("norm", ["ln1", "ln2"])
def test_a_dictionary_inside_a_norm_sees_what_transformer_lens_has_there(
    language_models: dict[str, LanguageModel], tmp_path: Path, kind: str, norm: str
) -> None:
    """TransformerLens itself says what hook_normalized carries; we read behind weight and bias."""
    model, hook = language_models[kind], f"blocks.1.{norm}.hook_normalized"
    tokens = random_tokens(2, 6)
    with torch.no_grad():
        inside = bridge(model).run_with_cache(tokens)[1][hook].flatten(0, 1)
    crosscoder, _ = crossproof.import_dictionary(save_sae(tmp_path / "s", hook, 0), model)
    name = {"ln1": "blocks.1.attn.hook_in", "ln2": "blocks.1.mlp.hook_in"}[norm]
    assert crosscoder.hookpoints.names == (name,)
    w = weights(0)
    code = ((inside - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    ours = model.activations(tokens, [name]).flatten(0, 1)
    latents = crosscoder.encode(ours)
    torch.testing.assert_close(latents.dense(), code, rtol=1e-4, atol=1e-4)
    error = code @ w["W_dec"] + w["b_dec"] - inside
    weight = resolve_hook(model, hook).weight
    assert weight is not None
    found = crosscoder.decode(latents)[:, 0] - ours[:, 0]
    torch.testing.assert_close(found, error * weight.float(), rtol=1e-4, atol=1e-4)


SPELLINGS = {
    "blocks.1.hook_resid_pre": "blocks.1.hook_resid_pre",
    "blocks.0.hook_resid_post": "blocks.0.hook_resid_post",
    "blocks.1.hook_mlp_out": "blocks.1.mlp.hook_out",
    "blocks.1.hook_attn_out": "blocks.1.attn.hook_out",
    "blocks.1.hook_mlp_in": "blocks.1.hook_resid_mid",
    "blocks.1.ln2.hook_in": "blocks.1.hook_resid_mid",
    "blocks.1.ln2.hook_out": "blocks.1.mlp.hook_in",
    "model.layers.1": "blocks.1.hook_resid_post",
    "layers.1": "blocks.1.hook_resid_post",
    "layers.0.mlp": "blocks.0.mlp.hook_out",
    "layers.0.self_attn": "blocks.0.attn.hook_out",
    "input of layers.0.mlp": "blocks.0.mlp.hook_in",
}


@pytest.mark.parametrize("hook", SPELLINGS)
def test_other_spellings(language_models: dict[str, LanguageModel], hook: str) -> None:
    assert resolve_hook(language_models["llama"], hook).hookpoint == SPELLINGS[hook]


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        ("blocks.1.attn.hook_q", "sets where attention looks"),
        ("blocks.7.hook_resid_pre", r"Nearest: blocks\.\d\.hook_resid_pre"),
        ("blocks.7.ln2.hook_normalized", "none of"),
        ("layers.9.mlp", "Give --hookpoint"),
    ],
)
def test_an_unknown_hook_is_named_with_the_nearest(
    language_models: dict[str, LanguageModel], hook: str, message: str
) -> None:
    with pytest.raises(CrossproofError, match=message) as caught:
        resolve_hook(language_models["llama"], hook)
    assert hook in str(caught.value)


HOOKS = ("blocks.0.mlp.hook_in", "blocks.1.hook_resid_mid", "blocks.1.mlp.hook_in")


@pytest.mark.parametrize("kinds", [("topk",) * 3, ("standard", "jumprelu", "standard")])
def test_joined_dictionaries_compute_what_each_computes_alone(
    tmp_path: Path, gpt_neo: LanguageModel, kinds: tuple[str, ...]
) -> None:
    folders = [
        save_sae(tmp_path / f"{i}", hook, i, kind)
        for i, (hook, kind) in enumerate(zip(HOOKS, kinds, strict=True))
    ]
    union, provenance = crossproof.import_dictionary(tmp_path, gpt_neo)
    assert union.hookpoints.names == HOOKS
    assert union.hookpoints.mlp_blocks == (0, 1)
    assert [origin["path"] for origin in provenance.training["imported"]] == list(map(str, folders))
    x = torch.randn(25, 3, D, generator=torch.Generator().manual_seed(3))
    together = union.encode(x)
    decoded = union.decode(together)
    for i, folder in enumerate(folders):
        alone, _ = crossproof.import_dictionary(folder, gpt_neo)
        latents = alone.encode(x[:, i : i + 1])
        part = together.dense()[:, i * F : (i + 1) * F]
        assert torch.equal(part != 0, latents.dense() != 0)
        torch.testing.assert_close(part, latents.dense(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(decoded[:, i], alone.decode(latents)[:, 0], rtol=1e-5, atol=1e-5)
    listed, _ = crossproof.import_dictionary(folders, gpt_neo)
    assert all(map(torch.equal, listed.state_dict().values(), union.state_dict().values()))
    apart = crossproof.import_dictionaries(tmp_path, gpt_neo)
    assert list(apart) == ["0", "1", "2"]
    assert [c.hookpoints.names for c, _ in apart.values()] == [(hook,) for hook in HOOKS]
    assert list(crossproof.import_dictionaries([folders[0], folders[0]], gpt_neo)) == ["0", "0+"]


def test_joined_they_take_the_room_that_they_take_apart_and_mean_what_zeros_mean(
    tmp_path: Path, gpt_neo: LanguageModel
) -> None:
    for i, hook in enumerate(HOOKS[:2]):
        save_sae(tmp_path / "saes" / f"{i}", hook, i, "topk")
    union, provenance = crossproof.import_dictionary(tmp_path / "saes", gpt_neo)
    assert union.W_enc.shape == union.W_dec.shape == (2 * F, 1, D)
    save_crosscoder(union, tmp_path / "union", provenance)
    size = (tmp_path / "union" / "crosscoder.safetensors").stat().st_size
    apart = 0
    for name, (each, origin) in crossproof.import_dictionaries(tmp_path / "saes", gpt_neo).items():
        save_crosscoder(each, tmp_path / name, origin)
        apart += (tmp_path / name / "crosscoder.safetensors").stat().st_size
    assert size < apart + 500  # the header names each tensor's place
    wide = Crosscoder(union.config, union.hookpoints, D)  # as older versions stored them
    with torch.no_grad():
        for side in ("enc", "dec"):
            weights = dense(union.layout, getattr(union, f"W_{side}"), side, 2)
            getattr(wide, f"W_{side}").copy_(weights)
        wide.b_enc.copy_(union.b_enc)
        wide.b_dec.copy_(union.b_dec)
    tokens = random_tokens(3, 9)
    options = crossproof.MeasureOptions(attention=False, shapley_tokens=0)
    ours, theirs = (crossproof.measure(gpt_neo, each, tokens, options) for each in (union, wide))
    assert [pair.latents for pair in ours.top_pairs] == [pair.latents for pair in theirs.top_pairs]
    for form, figure in theirs.totals.items():
        assert ours.totals[form].mean == pytest.approx(figure.mean, rel=1e-5), form


def test_layers_come_in_their_natural_order(tmp_path: Path, gpt_neo: LanguageModel) -> None:
    for name, hook in [("part_10", HOOKS[2]), ("part_2", HOOKS[0])]:
        save_sae(tmp_path / "run" / name, hook, 0)
    _, provenance = crossproof.import_dictionary(tmp_path, gpt_neo)
    found = [origin["hookpoints"] for origin in provenance.training["imported"]]
    assert found == [[HOOKS[0]], [HOOKS[2]]]


def test_a_transcoder_and_an_sae_meet_at_the_mlp_input(
    tmp_path: Path, gpt_neo: LanguageModel
) -> None:
    """The transcoder reads where the SAE writes: one hookpoint, and the SAE's decoder alone."""
    save_sae(tmp_path / "sae", HOOKS[0], 0)
    folder = save_sae(tmp_path / "transcoder", HOOKS[0], 1, "transcoder")
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"]["hook_name_out"] = "blocks.0.hook_mlp_out"
    (folder / "cfg.json").write_text(json.dumps(config))
    union, _ = crossproof.import_dictionary(tmp_path, gpt_neo)
    assert union.hookpoints.names == (HOOKS[0], "blocks.0.mlp.hook_out")
    assert union.hookpoints.mlp_blocks == (0,)
    assert not union.decoder_vectors(0)[F:].any()
    assert not union.decoder_vectors(1)[:F].any()
    alone, _ = crossproof.import_dictionary(folder, gpt_neo)
    assert alone.written == (1,)
    assert alone.hookpoints.mlp_blocks == ()


def test_what_cannot_be_joined_is_named(tmp_path: Path, gpt_neo: LanguageModel) -> None:
    first = save_sae(tmp_path / "first", HOOKS[0], 0)
    again = save_sae(tmp_path / "again", HOOKS[0], 1)
    with pytest.raises(CrossproofError, match=rf"Both .*first and .*again reconstruct {HOOKS[0]}"):
        crossproof.import_dictionary([first, again], gpt_neo)
    topk = save_sae(tmp_path / "topk", HOOKS[1], 2, "topk")
    with pytest.raises(CrossproofError, match="cannot be one crosscoder"):
        crossproof.import_dictionary([first, topk], gpt_neo)
    wide = save_sae(tmp_path / "wide", HOOKS[2], 2, "topk", width=F + 4)
    with pytest.raises(CrossproofError, match="same k and width"):
        crossproof.import_dictionary([topk, wide], gpt_neo)


def test_a_union_beyond_the_memory_is_refused(
    tmp_path: Path, gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [save_sae(tmp_path / str(i), hook, i) for i, hook in enumerate(HOOKS)]
    monkeypatch.setattr("os.sysconf", lambda name: 90)
    with pytest.raises(CrossproofError, match=r"The union of 3 dictionaries \(60 latents, 2 vec"):
        crossproof.import_dictionary(folders, gpt_neo)
