"""Small language models of several families, trained into folders that `load_model` reads."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossproof.lm import LanguageModel, load_model
from paper.figures.fig9 import ZOO
from paper.measuring.cache import ResultCache
from paper.toys import zoo

RECIPE = zoo.SmallModelConfig(
    "gpt_neo", 16, 2, heads=2, steps=60, batch=4, context=16, muon_lr=0.1, adam_lr=0.03
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rows that count up from a random token: predictable, but only from the token before."""
    path = tmp_path_factory.mktemp("zoo") / "counting.safetensors"
    start = torch.randint(1, 30, (120, 1), generator=torch.Generator().manual_seed(0))
    rows = (start + torch.arange(16)).to(torch.int32)
    save_file({"train": rows[:90].clone(), "held_out": rows[90:].clone()}, path)
    return str(path)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_each_family_learns_and_loads(
    family: zoo.Architecture, text: str, gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    said: list[str] = []
    recipe = replace(RECIPE, family=family)
    folder = zoo.folder(recipe, gpt_neo, text, ResultCache(tmp_path), said.append)
    model = load_model(str(folder))
    assert (model.d_model, model.n_blocks, model.vocab_size) == (16, 2, gpt_neo.vocab_size)
    assert model.special_ids == gpt_neo.special_ids
    assert model.tokenizer is not None
    assert gpt_neo.tokenizer is not None
    assert model.tokenizer.get_vocab() == gpt_neo.tokenizer.get_vocab()
    assert model.mlp(1).gated == (family == "llama")
    facts = zoo.training(folder)
    assert facts["held_out_loss"] == pytest.approx(zoo.loss(model, text), rel=1e-4)
    assert facts["held_out_loss"] < 0.7 * math.log(gpt_neo.vocab_size)
    assert facts["parameters"] == model.n_parameters
    assert facts["tokens"] == 60 * 4 * 16


def test_a_finished_model_is_not_trained_again(
    text: str, gpt_neo: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cache = replace(RECIPE, steps=2), ResultCache(tmp_path)
    first = zoo.folder(recipe, gpt_neo, text, cache, lambda _: None)
    other = zoo.folder(replace(recipe, seed=1), gpt_neo, text, cache, lambda _: None)
    assert other != first
    monkeypatch.setattr(zoo, "train", None)
    assert zoo.folder(recipe, gpt_neo, text, cache, lambda _: None) == first


def test_the_same_recipe_gives_the_same_bytes(
    text: str, gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    weights = []
    for name in ("one", "two"):
        torch.manual_seed(len(weights))  # the caller's random state does not matter
        recipe = replace(RECIPE, steps=3)
        folder = zoo.folder(recipe, gpt_neo, text, ResultCache(tmp_path / name), lambda _: None)
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_an_interrupted_training_leaves_nothing(
    text: str, gpt_neo: LanguageModel, tmp_path: Path
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.folder(replace(RECIPE, steps=100), gpt_neo, text, ResultCache(tmp_path), interrupt)
    assert not list(tmp_path.iterdir())


def test_gated_and_plain_mlps_have_as_many_parameters(gpt_neo: LanguageModel) -> None:
    for recipe in ZOO:
        config = json.loads(recipe.architecture(gpt_neo).to_json_string())
        matrices = 3 if recipe.family == "llama" else 2
        size = matrices * recipe.d_model * config["intermediate_size"]
        assert size == pytest.approx(8 * recipe.d_model**2, rel=0.02)
