"""Figures 3, 11 and 12 on a tiny language model, with word counts in the embedding's place."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tiny_models import CONTEXT, random_tokens

from paper.__main__ import main
from paper.clusters import subjects as clustering
from paper.clusters.subjects import Extent
from paper.figures import fig3, fig11, fig12

SPLITS = {"train": 60, "validation": 30, "held_out": 30}


def counted(texts: Sequence[str]) -> NDArray[np.float64]:
    """Unit vectors of hashed word counts."""
    out = np.zeros((len(texts), 64))
    for row, text in enumerate(texts):
        for word in text.split():
            out[row, zlib.crc32(word.encode()) % 64] += 1
    unit: NDArray[np.float64] = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    return unit


@pytest.fixture
def options(
    tmp_path: Path, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command line's options for a tiny model, its text, and one seed."""
    tokens = {s: random_tokens(n, CONTEXT, seed=i) for i, (s, n) in enumerate(SPLITS.items())}
    text = tmp_path / "text.safetensors"
    save_file({s: t.to(torch.int32) for s, t in tokens.items()}, text)
    monkeypatch.setattr(clustering, "QUICK", Extent(30, 30))
    for module in (fig3, fig11, fig12):
        monkeypatch.setattr(module, "SentenceEmbedder", lambda: counted)
    return [
        *("--model", str(model_folders["gpt-neo"]), "--text", str(text), "--quick"),
        *("--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")),
        *("--seeds", "0", "1", "--threads", "1"),
    ]


def numbers(tmp_path: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / f"{name}.json").read_text())["numbers"]
    return found


@pytest.mark.slow
def test_figures_of_clusters_and_explanations(options: list[str], tmp_path: Path) -> None:
    """One test, since the three share their trainings."""
    for name in ("fig3", "fig11", "fig12"):
        main([name, *options])
        assert {p.name for p in (tmp_path / "out").iterdir()} >= {f"{name}.md", f"{name}.png"}
    clusters = numbers(tmp_path, "fig3")
    assert set(clusters["variants"]) == {"λ = 0", "recipe"}
    for found in clusters["variants"].values():
        by_name = found["report"]["explanations"]["embedding"]
        assert "AND-normalised" not in by_name
        assert all(
            set(own) == {"clusters", "random", "random, matched"} for own in by_name.values()
        )
        assert found["families"][found["chosen"]["interaction"]] == "interaction"
        assert found["families"][found["chosen"]["baseline"]] == "baseline"
        level = {n: own["clusters"]["mean"] for n, own in by_name.items()}
        for row in found["differences"]["explanations"]["embedding"]:
            expected = level[row["one"]] - level[row["other"]]
            assert row["mean"] == pytest.approx(expected, abs=0.03)  # seeds may differ in size
        assert len(found["similarities"]) == 2  # a training seed each
    words = (tmp_path / "out" / "fig3.md").read_text()
    assert any(f"is {w} " in words for w in ("ahead of", "behind", "not told apart from"))
    assert "paired differences" in words
    for found in numbers(tmp_path, "fig11")["variants"].values():
        for own in found.values():
            c = own["confusion"]
            assert own["sensitivity"]["mean"] == pytest.approx(c["tp"] / (c["tp"] + c["fn"]))
    assert len(numbers(tmp_path, "fig12")["variants"]["recipe"]) <= 11


def test_halves_share_neither_latents_nor_text(
    options: list[str], tmp_path: Path, model_folders: dict[str, Path]
) -> None:
    from paper.measuring.experiment import Experiment
    from paper.measuring.settings import FigureSettings

    experiment = Experiment.open(
        FigureSettings(
            model=str(model_folders["gpt-neo"]),
            text=str(tmp_path / "text.safetensors"),
            cache=tmp_path / "cache",
            quick=True,
            seeds=(0,),
            threads=1,
            say=lambda _: None,
        )
    )
    (own,) = clustering.studies(experiment, experiment.config())
    choice, report = own.choice, own.report
    assert not set(choice.latents.tolist()) & set(report.latents.tolist())
    assert abs(len(choice.latents) - len(report.latents)) <= 1
    rows = [
        {tuple(row) for part in s.texts.parts.values() for row in part.tokens.tolist()}
        for s in (choice, report)
    ]
    assert not rows[0] & rows[1]
    means = [float(np.log(s.frequencies).mean()) for s in (choice, report)]
    assert abs(means[0] - means[1]) < 0.5
