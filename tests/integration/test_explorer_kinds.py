"""Runs of every kind, explored from the first reading to the exported site and a sentence."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny_models
import torch
from dictionaries import random_kind, random_transcoder
from explorers import OPTIONS, text_of
from safetensors.torch import save_file
from tiny_models import CONTEXT, random_tokens

from crossproof.crosscoder import Crosscoder, Provenance, load_crosscoder, save_crosscoder
from crossproof.crosscoder.diffing import relative_norms
from crossproof.crosscoder.layout import LatentGroup, Layout
from crossproof.errors import CrossproofError
from crossproof.explorer.building import build_store
from crossproof.explorer.exporting import export_site
from crossproof.explorer.format import LATENTS, PAGES, PAIRS
from crossproof.explorer.sentences import Sentences
from crossproof.explorer.store import RowsQuestion, Store
from crossproof.lm import LanguageModel, load_model
from crossproof.training.config import RECIPES

pytest.importorskip("duckdb")
pytestmark = pytest.mark.slow

MODELS: dict[str, Callable[[], tiny_models.PreTrainedModel]] = {
    "plain": tiny_models.gpt_neo,
    "parallel": tiny_models.gpt_neox,
    "gated": tiny_models.llama,
    "mixture": tiny_models.mixtral,
    "mixture with a shared expert": tiny_models.qwen2_moe,
    "two norms": tiny_models.gemma2,
}
SENTENCE = "w3 w4 w5 w6 w7 w8"


def kinds(model: LanguageModel) -> dict[str, Crosscoder]:
    """A run of dictionaries of several kinds, trained or imported."""
    mlp_in, mlp_out = "blocks.{}.mlp.hook_in", "blocks.{}.hook_mlp_out"
    causal = (LatentGroup(8, (0,), (1, 3)), LatentGroup(7, (2,), (3,)))
    both = [each.format(block) for block in (0, 1) for each in (mlp_in, mlp_out)]
    return {
        "sae": random_kind(model, ["blocks.1.hook_resid_pre"], _same(20, 1)),
        "mlp-sae": random_kind(model, [mlp_in.format(1)], _same(20, 1), "jumprelu"),
        "last-sae": random_kind(model, ["blocks.1.hook_resid_post"], _same(20, 1), "batch_topk"),
        "transcoder": random_transcoder(model, 0, skip=True, rule="topk"),
        "cross-layer": random_kind(model, both, Layout(causal)),
        "crosscoder": random_kind(model, [mlp_in.format(0), mlp_in.format(1)], _same(20, 2)),
    }


def test_two_models_are_explored(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """A crosscoder over both: whose each latent is can be sorted by and limited."""
    other = tiny_models.save_model(tmp_path / "tuned", tiny_models.tuned_gpt_neo)
    model = load_model(f"{model_folders['gpt-neo']},{other}")
    places = ("hook_resid_mid", "mlp.hook_in")
    names = [f"{side}/blocks.0.{at}" for side in ("base", "diff") for at in places]
    crosscoder = random_kind(model, names, _same(12, 4)).float()
    with torch.no_grad():
        crosscoder.W_dec[0, :2] = 0
        crosscoder.W_dec[1] = 0
    run = tmp_path / "run"
    text = text_of(run)
    run.mkdir()
    save_file({"held_out": random_tokens(40, CONTEXT, seed=1)}, text.text)
    training = asdict(RECIPES["demo"]) | {"text": text.text}
    provenance = Provenance(model.name, model.weights_hash, 0, training)
    save_crosscoder(crosscoder, run / "joint" / "crosscoder", provenance)
    build_store(model, run, text, OPTIONS)
    store = Store(run)
    [facts] = store.dictionaries
    assert facts.joint
    assert facts.hookpoints == names
    norms = [store.page(0, "latent", at)["relative_norm"] for at in range(12)]
    assert norms[:2] == [1.0, None]
    expected = relative_norms(crosscoder).tolist()
    assert norms[2:] == pytest.approx(expected[2:], rel=1e-3)
    asked = RowsQuestion(sort="relative_norm", least={"relative_norm": 0.4}, rows=500)
    rows = store.rows(0, LATENTS, asked)
    sorted_by = [row[rows["columns"].index("relative_norm")] for row in rows["rows"]]
    assert sorted_by[0] == 1.0
    assert sorted_by == sorted(sorted_by, reverse=True)
    assert "two models" in store.page(0, "latent", 0)["logits"]["missing"]
    export_site(store, tmp_path / "site")
    with pytest.raises(CrossproofError, match="two"):
        Sentences(model, [crosscoder])


def _same(latents: int, places: int) -> Layout:
    return Layout((LatentGroup(latents, tuple(range(places)), tuple(range(places))),))


def save_kinds(model: LanguageModel, folder: Path) -> None:
    text = text_of(folder)
    save_file({"held_out": random_tokens(40, CONTEXT, seed=1)}, text.text)
    training = asdict(RECIPES["demo"]) | {"text": text.text}
    for name, crosscoder in kinds(model).items():
        provenance = Provenance(model.name, model.weights_hash, 0, training)
        save_crosscoder(crosscoder.float(), folder / name / "crosscoder", provenance)


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_is_explored(kind: str, tmp_path: Path) -> None:
    model = load_model(str(tiny_models.save_model(tmp_path / "model", MODELS[kind])))
    run = tmp_path / "run"
    save_kinds(model, run)
    build_store(model, run, text_of(run), OPTIONS)
    store = Store(run)
    names = [each.name for each in store.dictionaries]
    assert sorted(names) == sorted(kinds(model))
    for number, facts in enumerate(store.dictionaries):
        assert facts.unread == "" or facts.pairs == 0, facts.name
        for page_kind in PAGES:
            for _, packed in store.packed_pages(number, page_kind):
                assert "NaN" not in json.dumps(json.loads(zlib.decompress(packed)))
        for table in (LATENTS, PAIRS):
            store.rows(number, table, RowsQuestion(rows=500))
    export_site(store, tmp_path / "site")
    chosen = [load_crosscoder(run / name / "crosscoder")[0] for name in names]
    sentences = Sentences(model, chosen)
    for number in range(len(names)):
        page = sentences.answer(number, "sentence", {"text": SENTENCE})
        at = max(at for at, token in enumerate(page["tokens"]) if token["scored"])
        asked = {"text": SENTENCE, "at": at}
        token = sentences.answer(number, "token", asked)
        assert {each["block"] for each in token["neurons"]} == set(page["blocks"])
        off = [latent for latent, _ in page["tokens"][at]["latents"]]
        without = sentences.answer(number, "without", asked | {"off": off})
        assert without["divergence"] > 0 or not off, names[number]
