"""evaluate, cluster and audit on two processes, killed and alone: the same figures to the digit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import together, torchrun
from safetensors.torch import save_file
from tiny_models import CONTEXT, D_MODEL, random_tokens
from torch.multiprocessing import ProcessExitedException

from crossproof.activations import TextSlice
from crossproof.auditing import run as auditing
from crossproof.auditing.run import audit
from crossproof.clusters import ClusterSettings, encoded_text, preparing
from crossproof.clusters.run import cluster
from crossproof.clusters.settings import JudgedText, LatentChoice
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.evaluation import (
    EvaluationOptions,
    MeasureOptions,
    evaluating,
    measure_runs,
    slices,
    tally_sequences,
)
from crossproof.evaluation.run_figures import evaluate_run
from crossproof.evaluation.slices import SLICES
from crossproof.lm import LanguageModel, load_model
from crossproof.training import distributed
from crossproof.training.config import RECIPES

EVALUATED = EvaluationOptions(
    batch_sequences=2, resamples=40, keep_sequences=5, context_sequences=7
)
CLUSTERED = ClusterSettings(
    similarity="I",
    against=("second-differences",),
    judge="overlap",
    seeds=1,
    choice=LatentChoice(latents=20, min_tokens=5, max_frequency=0.9),
    text=JudgedText(tokens=1200),
    scored=2,
    windows=2,
    resamples=20,
)
SHORT = {evaluating: 160, encoded_text: 500, preparing: 500, auditing: 16}


def shorten(to: Mapping[Any, int] = SHORT) -> None:
    """Slices so short that small texts have several."""
    evaluating.SLICE_TOKENS, encoded_text.SLICE_TOKENS = to[evaluating], to[encoded_text]
    preparing.HALF_SLICE_TOKENS, auditing.SLICE_TEXTS = to[preparing], to[auditing]


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randrange(1, 60)}" for _ in range(9)) for _ in range(count)]


@pytest.fixture(scope="module")
def run(gpt_neo: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two crosscoders, measured on a part of its text."""
    folder = tmp_path_factory.mktemp("sliced") / "run"
    text = folder.parent / "text.safetensors"
    save_file({"held_out": random_tokens(100, CONTEXT, seed=1)}, text)
    for seed, name in enumerate(("unpenalised", "penalised")):
        hookpoints = gpt_neo.hookpoints()
        crosscoder = Crosscoder(CrosscoderConfig(32, "topk", 6), hookpoints, D_MODEL)
        sample = gpt_neo.activations(random_tokens(20, CONTEXT, seed=9), hookpoints.names)
        crosscoder.initialise(sample.flatten(0, 1).clone(), seed=seed)
        provenance = Provenance(
            gpt_neo.name, gpt_neo.weights_hash, seed, asdict(RECIPES["demo"]) | {"text": str(text)}
        )
        save_crosscoder(crosscoder, folder / name / "crosscoder", provenance)
    measured = TextSlice.of_tokens(str(text), "held_out", 1600, CONTEXT)
    options = MeasureOptions(pairs=1, shapley_tokens=0)
    measure_runs(gpt_neo, [folder], folder / "measure", measured, options)
    return folder


def figures(model_folder: Path, run: Path, out: Path, dies_at: int | None = None) -> None:
    """All three on one text; the second process is killed when it is about to complete the slice
    of that number, and the first has completed one: on a busy machine it may be far behind."""
    shorten()
    if dies_at is not None and distributed.rank() == 1:
        write = slices.write_json

        def die(path: Path, about: Mapping[str, Any]) -> None:
            if path.parent.name == f"slice-{dies_at:05d}":
                wait_for(path.parent.parent / "slice-00000" / slices.ABOUT)
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, about)

        slices.write_json = die  # type: ignore[assignment]
    model = load_model(str(model_folder))
    text = TextSlice(str(run.parent / "text.safetensors"), "held_out", 21, CONTEXT)
    found = evaluate_run(model, run, RECIPES["demo"], text, EVALUATED, slices=out / "evaluated")
    mine = out / "run"
    if distributed.rank() == 0:
        shutil.copytree(run, mine, dirs_exist_ok=True)
    distributed.wait_for_all()
    cluster(model, mine, CLUSTERED)
    crosscoder = run / "penalised" / "crosscoder"
    audited = audit(model, texts(80, 0), texts(40, 1), crosscoder, output=out)
    if distributed.rank() == 0:
        found.save(out / "results.json")
        audited.save(out / "audit.json")


def wait_for(path: Path) -> None:
    """Until it is there, two minutes at most."""
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.1)


def written(out: Path) -> list[Any]:
    names = ("results.json", "audit.json", "run/clusters/clusters.json")
    return [json.loads((out / name).read_text()) for name in names]


def test_two_processes_one_of_them_killed_find_what_one_finds(
    model_folders: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    model = model_folders["gpt-neo"]
    together(figures, model, run, tmp_path / "one", count=1)
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        together(figures, model, run, tmp_path / "two", 5, count=2)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob(slices.ABOUT)}
    assert 3 <= len(done) <= 8  # the second's 1 and 3, and those that the first was done with
    together(figures, model, run, tmp_path / "two", count=2)
    assert written(tmp_path / "two") == written(tmp_path / "one")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob(slices.ABOUT)}
    assert kept.items() >= done.items()
    assert not list((tmp_path / "two").rglob(SLICES))


@pytest.mark.slow
def test_commands_under_torchrun_print_and_write_once(
    model_folders: dict[str, Path], run: Path, tmp_path: Path
) -> None:
    mine, model = tmp_path / "run", ["--model", str(model_folders["gpt-neo"])]
    shutil.copytree(run, mine, ignore=shutil.ignore_patterns("measure"))
    sizes = ["--latents", "20", "--min-tokens", "5", "--max-frequency", "0.9", "--seeds", "1"]
    asked = ["--similarity", "I", "--against", "phi", "--judge", "overlap", "--tokens", "1200"]
    trusted, suspect = (tmp_path / name for name in ("trusted.txt", "suspect.txt"))
    trusted.write_text("\n<|endoftext|>\n".join(texts(300, 0)))
    suspect.write_text("\n<|endoftext|>\n".join(texts(200, 1)))
    read = ["--trusted", str(trusted), "--suspect", str(suspect), "--out", str(tmp_path / "audit")]
    for command, what in {
        "evaluate": [str(mine), *model, "--sequences", "50"],
        "cluster": [str(mine), *model, *asked, *sizes],
        "audit": [model[1], *read, "--steps", "20", "--n-latents", "32"],
    }.items():
        done = torchrun(command, *what)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Next: ") == 1, done.stdout
    for name in ("run/evaluation-held_out/results", "run/clusters/clusters", "audit/audit"):
        assert (tmp_path / f"{name}.json").exists()
    assert not list(tmp_path.rglob(SLICES))


def test_slices_change_no_sum(
    gpt_neo: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crosscoder = Crosscoder(CrosscoderConfig(24, "topk", 4), gpt_neo.hookpoints(), D_MODEL)
    tokens = random_tokens(9, CONTEXT)
    sample = gpt_neo.activations(tokens, crosscoder.hookpoints.names).flatten(0, 1)
    crosscoder.initialise(sample, seed=0)
    whole = tally_sequences(gpt_neo, crosscoder, tokens, EVALUATED)
    monkeypatch.setattr(evaluating, "SLICE_TOKENS", 1)
    parts = tally_sequences(gpt_neo, crosscoder, tokens, EVALUATED, slices=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5
    assert whole.sums.keys() == parts.sums.keys()
    assert list(whole.kept) == list(parts.kept)
    for name, values in whole.joined().items():
        np.testing.assert_array_equal(parts.joined()[name], values)
    for count, losses in whole.kept.items():
        np.testing.assert_array_equal(np.concatenate(parts.kept[count]), np.concatenate(losses))
    for one, other in ((whole.fired, parts.fired), (whole.histogram, parts.histogram)):
        assert isinstance(one, torch.Tensor)
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)
    assert len(whole.encoded) == len(parts.encoded) == 4
