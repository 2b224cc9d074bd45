"""Figures 8 to 10 on tiny models: whole command lines, and what their numbers must hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import CONTEXT, random_tokens

from paper.__main__ import main
from paper.figures import fig8, fig9, fig10, scaling
from paper.measuring.experiment import Experiment
from paper.measuring.objectives import KEEP_LARGEST
from paper.measuring.settings import FigureSettings


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "tokens.safetensors"
    counts = {"train": 60, "validation": 8, "held_out": 8}
    tokens = {s: random_tokens(n, CONTEXT, seed=i) for i, (s, n) in enumerate(counts.items())}
    save_file({split: rows.to(torch.int32) for split, rows in tokens.items()}, path)
    return str(path)


def reproduced(figure: str, model: Path, text: str, folder: Path, seeds: str = "0") -> Any:
    """The numbers that a command line writes; pictures and words must be there too."""
    out = folder / "out"
    main(
        [
            *(figure, "--quick", "--threads", "1", "--seeds", *seeds.split()),
            *("--model", str(model), "--text", text, "--out", str(out)),
            *("--cache", str(folder / "cache")),
        ]
    )
    content = json.loads((out / f"{figure}.json").read_text())
    for chart in content["charts"]:
        assert (out / f"{chart}.png").stat().st_size > 5000
        assert (out / f"{chart}.html").is_file()
    assert content["words"] in (out / f"{figure}.md").read_text()
    return content


@pytest.mark.slow
def test_figure_8_measures_every_width_k_and_objective_once(
    model_folders: dict[str, Path], text: str, tmp_path: Path
) -> None:
    content = reproduced("fig8", model_folders["gpt-neo"], text, tmp_path)
    numbers = content["numbers"]
    assert list(numbers["widths"]) == ["H = 64", "H = 128"]
    assert list(numbers["ks"]) == ["k = 4", "k = 8"]
    assert numbers["widths"]["H = 128"] == numbers["ks"]["k = 8"]  # the same trainings
    crosscoders = list((tmp_path / "cache").glob("crosscoder-*"))
    assert len(crosscoders) == 3 * 3
    widths = {
        json.loads((c / "key.json").read_text())["crosscoder"]["n_latents"] for c in crosscoders
    }
    assert widths == {64, 128}
    for by_objective in (*numbers["widths"].values(), *numbers["ks"].values()):
        assert list(by_objective) == list(scaling.OBJECTIVES)
        keep = by_objective["recipe"]["keep"]
        assert keep["ci"][0] <= keep["mean"] <= keep["ci"][1]
    assert f"{keep['mean']:.2f}" in content["words"]


def test_strengths_are_in_proportion_to_what_is_reconstructed(
    model_folders: dict[str, Path], text: str, tmp_path: Path
) -> None:
    experiment = Experiment.open(
        FigureSettings(
            str(model_folders["gpt-neo"]), text, cache=tmp_path, quick=True, say=lambda _: None
        )
    )
    dimensions = len(experiment.model.hookpoints()) * experiment.model.d_model
    configs = scaling.variants(experiment, {"small": fig9.dictionary(experiment.model)})
    strength = getattr(configs["small", "recipe"].objective, KEEP_LARGEST)
    assert strength == pytest.approx(200 * dimensions / (17 * 128))
    assert configs["small", "unpenalised"].objective.strengths() == {}
    assert configs["small", "recipe"].crosscoder.n_latents == 4 * experiment.model.d_model


@pytest.mark.slow
def test_figure_9_trains_every_family_and_compares(
    model_folders: dict[str, Path], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [r for r in fig9.QUICK_ZOO if r.family != "gpt_neo"]  # the model itself is one
    short = tuple(replace(r, steps=3, context=CONTEXT) for r in others)
    monkeypatch.setattr(fig9, "QUICK_ZOO", short)
    content = reproduced("fig9", model_folders["gpt-neo"], text, tmp_path)
    models, found = content["numbers"]["models"], content["numbers"]["found"]
    assert list(models) == list(found) == [str(model_folders["gpt-neo"]), *(r.name for r in short)]
    assert [models[r.name]["gated"] for r in short] == [False, True]
    for recipe in short:
        assert models[recipe.name]["tokens"] == 3 * 4 * CONTEXT
        assert f"{models[recipe.name]['held_out_loss']:.3f}" in content["words"]
        assert 0 < found[recipe.name]["recipe"]["fvu"]["mean"] < 2
    assert len(list((tmp_path / "cache").glob("language-model-*"))) == len(short)


def test_figure_10_has_a_network_a_seed(
    model_folders: dict[str, Path], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(fig10.QUICK_NETWORK, d_model=16, heads=2, neurons=32, steps=40)
    monkeypatch.setattr(fig10, "QUICK_NETWORK", small)
    content = reproduced("fig10", model_folders["gpt-neo"], text, tmp_path, seeds="0 1")
    numbers = content["numbers"]
    assert [one["recipe"]["seed"] for one in numbers["networks"]] == [0, 1]
    losses = [one["held_out"]["loss"] for one in numbers["networks"]]
    assert losses[0] != losses[1]
    for structure in numbers["structure"]:
        names = ["neurons", *fig10.OBJECTIVES, "start of training", "random directions"]
        assert list(structure) == names
        for own in structure.values():
            assert 0 < own["read_top"] <= 1
            assert own["keys_owned"] <= 11
    assert set(numbers["figures"]["recipe"]) == set(fig10.FIGURES)
    assert numbers["pairs"] == 23**2 - round(small.train_share * 23**2)
    assert "modulo 23" in content["words"]


def test_figure_8s_published_sizes_share_the_middle() -> None:
    """The width of the k sweep and the k of the width sweep are the settings' own."""
    assert FigureSettings().size.n_latents in fig8.WIDTHS
    assert FigureSettings().size.k in fig8.KS
    quick = FigureSettings(quick=True).size
    assert quick.n_latents in fig8.QUICK_WIDTHS
    assert quick.k in fig8.QUICK_KS
