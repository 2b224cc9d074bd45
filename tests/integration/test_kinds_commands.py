"""The commands on a set of transcoders, from training to the page, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models

from crossproof.cli import main

SMALL = ["--steps", "4", "--batch-tokens", "32", "--buffer-batches", "4", "--context", "16"]
SMALL += ["--n-latents", "24", "--k", "4", "--evaluation-sequences", "4", "--log-every", "2"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sources")
    tiny_models.save_model(folder / "model", tiny_models.llama)
    (folder / "text.txt").write_text(" ".join(f"w{i * 7 % 59 + 1}" for i in range(2500)))
    return ["--model", str(folder / "model"), "--text", str(folder / "text.txt")]


@pytest.mark.slow
def test_a_transcoder_a_layer_is_trained_evaluated_and_measured_together(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    places = ["--read", "blocks.*.mlp.hook_in", "--write", "blocks.*.hook_mlp_out"]
    main(["train", "--out", str(run), *sources, *places, "--layout", "each", "--skip", *SMALL])
    results = json.loads((run / "results.json").read_text())
    names = [
        f"{kind}/blocks.{b}.hook_mlp_out" for kind in ("unpenalised", "penalised") for b in (0, 1)
    ]
    assert list(results["runs"]) == names
    alone = results["runs"][names[0]]["replaced"]
    assert alone["hookpoints"] == ["blocks.0.hook_mlp_out"]
    assert "Layers replaced" in capsys.readouterr().out
    some = ["--sequences", "4", "--context", "16"]
    main(["evaluate", str(run / "unpenalised"), "--together", *some])
    together = run / "unpenalised" / "together"
    figures = json.loads((together / "results.json").read_text())["runs"]["together"]
    assert figures["dictionaries"] == {"blocks.0.hook_mlp_out": 0, "blocks.1.hook_mlp_out": 24}
    assert len(figures["replaced"]["hookpoints"]) == 2
    main(["measure", str(run / "unpenalised"), "--together", "--tokens", "200", "--context", "16",
          "--mlp", "all", "--no-attention"])  # fmt: skip
    assert "blocks.0.hook_mlp_out:" in capsys.readouterr().out
    page = (together / "report.html").read_text()
    assert "blocks.0.hook_mlp_out:" in page
    with pytest.raises(SystemExit, match="counted twice"):
        main(["measure", str(run), "--together", "--tokens", "200"])


@pytest.mark.slow
def test_a_cross_layer_transcoder_starts_from_transcoders(
    sources: list[str], tmp_path: Path
) -> None:
    places = ["--read", "blocks.*.mlp.hook_in", "--write", "blocks.*.hook_mlp_out"]
    given = [*sources, *places, *SMALL, "--no-evaluate"]
    one = ["--keep-largest", "0", "--all-latents", "0", "--interaction", "0"]
    main(["train", "--out", str(tmp_path / "set"), *given, *one, "--layout", "each"])
    start = ["--layout", "causal", "--n-latents", "60", "--from", str(tmp_path / "set")]
    main(["train", "--out", str(tmp_path / "clt"), *given, *one, *start])
    config = json.loads((tmp_path / "clt" / "config.json").read_text())
    assert config["start"] == [str(tmp_path / "set")]
    main(["evaluate", str(tmp_path / "clt"), "--sequences", "4", "--context", "16"])
    results = json.loads((tmp_path / "clt" / "evaluation-held_out" / "results.json").read_text())
    assert len(results["runs"]["unpenalised"]["replaced"]["hookpoints"]) == 2
