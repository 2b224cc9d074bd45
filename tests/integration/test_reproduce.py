"""`python -m paper` on a tiny language model: trained once, the same bytes every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, random_tokens

from crossproof.activations import read_sequences
from crossproof.crosscoder.store import folded_tensors
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.lm import LanguageModel
from crossproof.training.objectives import Objective
from crossproof.training.run import start, train_run
from crossproof.training.together import train_together
from paper.__main__ import main
from paper.figures import fidelity
from paper.measuring.experiment import Experiment
from paper.measuring.objectives import exact
from paper.measuring.settings import FigureSettings

SPLITS = {"train": 60, "validation": 8, "held_out": 8}


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, model_folders: dict[str, Path]
) -> Callable[..., FigureSettings]:
    """FigureSettings of the tiny GPT-Neo and its text; each call may change some."""
    folder = tmp_path_factory.mktemp("reproduce")
    tokens = {s: random_tokens(n, CONTEXT, seed=i) for i, (s, n) in enumerate(SPLITS.items())}
    save_file({s: t.to(torch.int32) for s, t in tokens.items()}, folder / "text.safetensors")
    usual = FigureSettings(
        model=str(model_folders["gpt-neo"]),
        text=str(folder / "text.safetensors"),
        out=folder / "results",
        cache=folder / "cache",
        quick=True,
        seeds=(0, 1),
        threads=1,
        say=lambda _: None,
    )
    return lambda **changes: replace(usual, **changes)


def arguments(settings: FigureSettings) -> list[str]:
    return [
        *("--model", settings.model, "--text", settings.text, "--out", str(settings.out)),
        *("--cache", str(settings.cache), "--quick", "--threads", "1"),
        *("--seeds", *map(str, settings.seeds)),
    ]


@pytest.mark.slow
def test_the_same_seeds_give_the_same_bytes(
    settings: Callable[..., FigureSettings],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two runs that share nothing write equal numbers; a third trains nothing."""
    monkeypatch.setattr(fidelity, "LAMBDAS", (100.0,))
    written = []
    for name in ("one", "two"):
        own = settings(out=tmp_path / name, cache=tmp_path / f"{name}-cache", seeds=(0,))
        main(["fig2", *arguments(own)])
        assert "crosscoders: step" in capsys.readouterr().out
        assert {p.name for p in own.out.iterdir()} >= {"fig2.md", "fig2.png", "fig2.html"}
        written.append((own.out / "fig2.json").read_bytes())
    assert written[0] == written[1]
    third = settings(out=tmp_path / "three", cache=tmp_path / "two-cache", seeds=(0,))
    main(["fig2", "fig7", *arguments(third)])
    assert "crosscoders: step" not in capsys.readouterr().out
    assert (third.out / "fig7.json").exists()
    numbers = json.loads((third.out / "fig2.json").read_text())["numbers"]
    assert numbers["setup"]["seeds"] == [0]
    low, high = numbers["phi"]["λ = 0"]["keep-largest"]["exact_mid"]["ci"]
    assert low <= numbers["phi"]["λ = 0"]["keep-largest"]["exact_mid"]["mean"] <= high
    other = settings(seeds=(1,), out=tmp_path / "four", cache=tmp_path / "two-cache")
    main(["fig2", *arguments(other)])
    different = json.loads((other.out / "fig2.json").read_text())["numbers"]
    assert different["phi"] != numbers["phi"]


def test_a_cached_crosscoder_is_what_crossproof_train_makes(
    settings: Callable[..., FigureSettings], tmp_path: Path
) -> None:
    experiment = Experiment.open(settings())
    config = experiment.config(**exact(100.0))
    variants = {"none": experiment.config(), "penalised": config}
    found = experiment.crosscoders(variants)["penalised"][1]
    finished = train_run(start(replace(config, seed=1, baseline=True), tmp_path / "run"))
    expected = folded_tensors(finished["penalised"])
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    saved = load_file(
        experiment.trainings.folder(replace(config, seed=1)) / "crosscoder.safetensors"
    )
    assert saved.keys() == expected.keys()


def test_measurements_are_those_of_evaluate(settings: Callable[..., FigureSettings]) -> None:
    """Also where losses with zeroed hookpoints come from another crosscoder's measurement."""
    experiment = Experiment.open(settings(seeds=(0,)))
    variants = {"none": experiment.config(), "penalised": experiment.config(interaction=100.0)}
    runs = experiment.measure(variants)
    crosscoder = experiment.crosscoders(variants)["penalised"][0]
    held_out = experiment.text("held_out")
    figures = evaluate(experiment.model, crosscoder, held_out, EvaluationOptions()).to_json()
    for name in ("fvu", "fvu_mlp_in", "interaction", "ce_recovered", "kl_recovered", "l0"):
        assert runs["penalised"].figure(name).value == pytest.approx(figures[name], rel=1e-12)
    keep = runs["penalised"].figure("phi/keep-largest/reconstructed_mid").estimate()
    expected = figures["phi"]["keep-largest"]["reconstructed_mid"]
    assert keep["parts"] == pytest.approx(expected["by_block"], rel=1e-12)
    assert runs["penalised"].dead == [pytest.approx(figures["dead"])]
    with pytest.raises(CrossproofError, match="'phi/keep' was not measured"):
        runs["penalised"].figure("phi/keep")


def test_only_what_matters_makes_another_crosscoder(
    settings: Callable[..., FigureSettings],
) -> None:
    trainings = Experiment.open(settings()).trainings
    config = Experiment.open(settings()).config(interaction=10.0)
    for same in (replace(config, log_every=3), replace(config, evaluation_sequences=9)):
        assert trainings.folder(same) == trainings.folder(config)
    for other in (
        replace(config, seed=5),
        replace(config, steps=config.steps + 1),
        replace(config, objective=Objective(interaction=11.0)),
        replace(config, crosscoder=replace(config.crosscoder, k=3)),
        replace(config, optimisation=replace(config.optimisation, lr=2e-3)),
        replace(config, context=16),
    ):
        assert trainings.folder(other) != trainings.folder(config), asdict(other)


def test_crosscoders_on_different_batches_are_not_trained_together(
    settings: Callable[..., FigureSettings], gpt_neo: LanguageModel
) -> None:
    config = Experiment.open(settings()).config()
    rows = read_sequences(config.text, gpt_neo, CONTEXT, "train")
    with pytest.raises(CrossproofError, match="'b' does not train on the same batches as 'a'"):
        train_together(gpt_neo, rows, {"a": config, "b": replace(config, seed=7)})


@pytest.mark.parametrize(
    ("figures", "more", "message"),
    [
        (["fig77"], [], "There is no figure 'fig77'"),
        (["fig2", "fig77"], [], "There is no figure 'fig77'"),
        ([], [], "Name a figure, or all: fig1"),
        (["fig2"], ["--seeds", "1", "1"], "none twice"),
        (["fig2"], ["--model", "no/such/folder"], "no/such/folder"),
    ],
)
def test_bad_input_is_one_sentence(
    settings: Callable[..., FigureSettings], figures: list[str], more: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*figures, *arguments(settings()), *more])


def test_a_folder_that_cannot_be_written_is_named(
    settings: Callable[..., FigureSettings], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    own = settings(out=tmp_path / "file")
    with pytest.raises(SystemExit, match="choose a writable"):
        main(["fig2", *arguments(own)])


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["fig1", "fig7", "anti-gaming", "ablation"])
def test_a_figure_runs_on_any_model_and_says_what_it_found(
    settings: Callable[..., FigureSettings], figure: str
) -> None:
    own = settings()
    main([figure, *arguments(own)])
    content = json.loads((own.out / f"{figure}.json").read_text())
    assert content["numbers"]["setup"]["model"] == own.model
    assert "--model" in content["command"]
    words = (own.out / f"{figure}.md").read_text()
    assert "| --- |" in words
    assert " nan" not in words
    for chart in content["charts"]:
        assert (own.out / f"{chart}.png").stat().st_size > 5000
    if figure == "ablation":
        check_ablation(content["numbers"])


def check_ablation(numbers: dict[str, Any]) -> None:
    """Gains add up, the reference is not behind itself, and parts are parts of the gain."""
    for comparison in numbers["comparisons"].values():
        reference = comparison["reference"]
        assert reference["behind_reference"]["mean"] == 0
        for entries in (comparison["gradient"], comparison["fvu"]):
            for entry in entries.values():
                total = entry["gain"]["mean"] + entry["behind_reference"]["mean"]
                assert total == pytest.approx(reference["gain"]["mean"])
    for parts in numbers["parts"].values():
        for symbol in ("I", "J"):
            total = parts[symbol]["with_fewer"]["mean"] + parts[symbol]["without"]["mean"]
            assert total == pytest.approx(parts["gain"]["mean"])
