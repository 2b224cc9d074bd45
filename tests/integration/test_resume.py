"""Runs that stopped or crashed: gone on with exactly, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_models import gpt_neo, save_model, tuned_gpt_neo

from crossproof import CrosscoderConfig, Objective, Optimisation, RunConfig
from crossproof.commands.train import name_ignored
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.training.bounds import check_settings
from crossproof.training.config import config_from_dict
from crossproof.training.loop import Progress
from crossproof.training.run import Run, resume, start, train_run


class Crash(Exception):  # noqa: N818  (no error of ours)
    """The process is lost between two steps."""


def words(seed: int, count: int) -> str:
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(1, 60, count))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a text."""
    folder = tmp_path_factory.mktemp("sources")
    save_model(folder / "model", gpt_neo)
    (folder / "text.txt").write_text(words(0, 1500))
    return folder


def config(sources: Path, **options: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "model": str(sources / "model"),
        "text": str(sources / "text.txt"),
        "hookpoints": ("blocks.*.mlp.hook_in",),
        "context": 16,
        "crosscoder": CrosscoderConfig(n_latents=24, k=4),
        "objective": Objective(keep_largest=10.0),
        "steps": 6,
        "batch_tokens": 32,
        "buffer_batches": 4,
        "checkpoint_every": 2,
        "log_every": 1,
    }
    return RunConfig(**(settings | options))


def crashed(sources: Path, out: Path, after: int = 5, **options: Any) -> Run:
    """A run whose process is lost after a step; the newest checkpoint is of the one before."""

    def report(progress: Progress) -> None:
        if progress.step == after:
            raise Crash

    run = start(config(sources, **options), out)
    with pytest.raises(Crash):
        train_run(run, report)
    return run


@pytest.fixture(scope="module")
def whole(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    train_run(start(config(sources), out))
    return out


@pytest.fixture(scope="module")
def stopped(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "stopped"
    crashed(sources, out)
    return out


@pytest.fixture
def torn(stopped: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(stopped, tmp_path / "run")


def weights(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(run.glob("*/crosscoder/*.safetensors"))]


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "penalised" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) | {"tokens_per_second": 0} for line in lines]


def checkpoint(run: Path) -> Path:
    (folder,) = (run / "checkpoints").glob("step-*")
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def spoil(path: Path) -> None:
    tensors = load_file(path)
    save_file(
        {k: v * float("nan") if v.is_floating_point() else v for k, v in tensors.items()}, path
    )


HARMLESS: dict[str, Callable[[Path], Any]] = {
    "nothing": lambda run: None,
    "torn last line": lambda run: (run / "penalised/metrics.jsonl").open("a").write('{"step": '),
    "bytes that are no text": lambda run: (
        (run / "penalised/metrics.jsonl").open("ab").write(b"\xff\x00\n")
    ),
    "missing folder": lambda run: shutil.rmtree(run / "unpenalised"),
    "somebody's folder": lambda run: (run / "checkpoints" / "step-old").mkdir(),
    "settings that decide nothing": lambda run: edit(run / "config.json", checkpoint_every=3),
}


@pytest.mark.parametrize("damage", HARMLESS)
def test_a_crashed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    damage: str, torn: Path, whole: Path
) -> None:
    HARMLESS[damage](torn)
    run = resume(torn)
    assert run.training.step == 4
    train_run(run)
    assert weights(torn) == weights(whole)
    assert len(weights(torn)) == 2
    assert metrics(torn) == metrics(whole)


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again(
    sources: Path, whole: Path, tmp_path: Path
) -> None:
    crashed(sources, tmp_path / "run", after=1)
    train_run(resume(tmp_path / "run"))
    assert weights(tmp_path / "run") == weights(whole)
    assert metrics(tmp_path / "run") == metrics(whole)


DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "torn manifest": (
        lambda run: (checkpoint(run) / "checkpoint.json").write_text("{"),
        r"checkpoint\.json cannot be read",
    ),
    "no step": (
        lambda run: (checkpoint(run) / "checkpoint.json").write_text(
            '{"runs": ["penalised", "unpenalised"]}'
        ),
        "says step None, the weights beside it are of step 4",
    ),
    "another step": (lambda run: edit(checkpoint(run) / "checkpoint.json", step=3), "says step 3"),
    "other runs": (lambda run: edit(checkpoint(run) / "checkpoint.json", runs=7), "the runs 7"),
    "truncated tensors": (
        lambda run: (checkpoint(run) / "training.safetensors").write_bytes(b"x" * 100),
        "damaged or not a safetensors file",
    ),
    "the only one lacks its state": (
        lambda run: (checkpoint(run) / "training.safetensors").unlink(),
        r"step-00000004 lacks checkpoint\.json or training\.safetensors.* remove it to train",
    ),
    "a list": (lambda run: (run / "config.json").write_text("[]"), "does not hold a JSON object"),
    "no config": (lambda run: (run / "config.json").unlink(), r"config\.json is missing"),
    "steps in words": (lambda run: edit(run / "config.json", steps="six"), "steps is 'six'"),
    "no steps": (lambda run: edit(run / "config.json", steps=None), "steps is None"),
    "true steps": (lambda run: edit(run / "config.json", steps=True), "steps is True"),
    "hookpoints": (lambda run: edit(run / "config.json", hookpoints=None), "hookpoints is None"),
    "hookpoint": (lambda run: edit(run / "config.json", hookpoints="b*"), "hookpoints is 'b.'"),
    "rows": (lambda run: edit(run / "config.json", rows="sideways"), "rows is 'sideways'"),
    "crosscoder": (lambda run: edit(run / "config.json", crosscoder=[3]), "does not fit"),
    "optimisation": (lambda run: edit(run / "config.json", optimisation=3), "does not fit"),
    "objective": (lambda run: edit(run / "config.json", objective=[1]), "does not fit"),
    "strength": (
        lambda run: edit(run / "config.json", objective={"keep_largest": "10"}),
        "strength of 'keep_largest' is '10'",
    ),
    "NaN": (lambda run: spoil(checkpoint(run) / "training.safetensors"), "holds NaN"),
    "another context": (lambda run: edit(run / "config.json", context=8), r"\(context was 16\)"),
    "longer": (lambda run: edit(run / "config.json", steps=12), r"\(steps was 6\)"),
    "another seed": (lambda run: edit(run / "config.json", seed=1), r"\(seed was 0\)"),
    "other size": (
        lambda run: edit(
            run / "config.json", crosscoder={"n_latents": 48, "k": 4, "sparsity": "topk"}
        ),
        r"\(n_latents was 24, sparsity was batch_topk\)",
    ),
    "another term": (
        lambda run: edit(run / "config.json", objective={"keep_largest": 10.0, "interaction": 1}),
        r"objective was \{.*'keep_largest': 10",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_and_changed_runs_are_refused_in_a_sentence(damage: str, torn: Path) -> None:
    do, words = DAMAGED[damage]
    do(torn)
    with pytest.raises(CrossproofError, match=words):
        resume(torn)


def test_a_checkpoint_that_lost_its_files_is_left_out(torn: Path, whole: Path) -> None:
    (torn / "checkpoints/step-00000009").mkdir()
    with pytest.warns(CrossproofWarning, match="step-00000009 is not complete: resuming from step"):
        train_run(resume(torn))
    assert weights(torn) == weights(whole)
    assert [each.name for each in (torn / "checkpoints").iterdir()] == ["step-00000006"]


def test_another_model_or_text_is_refused(torn: Path, sources: Path, tmp_path: Path) -> None:
    """Also where the name has stayed; the same contents in another place go on."""
    moved = tmp_path / "moved.txt"
    shutil.copy(sources / "text.txt", moved)
    edit(torn / "config.json", text=str(moved))
    assert resume(torn).training.step == 4
    moved.write_text(words(1, 1500))
    with pytest.raises(CrossproofError, match=r"The text '.*moved\.txt' is not what .*contents"):
        resume(torn)
    other = save_model(tmp_path / "other", tuned_gpt_neo)
    edit(torn / "config.json", text=str(sources / "text.txt"), model=str(other))
    with pytest.raises(CrossproofError, match=r"The model '.*other' is not what"):
        resume(torn)


def test_checkpoints_of_older_versions_go_on(torn: Path, whole: Path) -> None:
    manifest = {"step": 4, "runs": ["penalised", "unpenalised"]}
    (checkpoint(torn) / "checkpoint.json").write_text(json.dumps(manifest))
    train_run(resume(torn))
    assert weights(torn) == weights(whole)


def test_a_full_disk_is_one_sentence_and_the_checkpoint_is_left(torn: Path) -> None:
    run = resume(torn)
    log = torn / "penalised" / "metrics.jsonl"
    log.unlink()
    log.symlink_to("/dev/full")
    with pytest.raises(CrossproofError, match=r"Cannot write .*metrics\.jsonl.*free space"):
        train_run(run)
    assert checkpoint(torn).name == "step-00000004"


def test_a_fresh_run_replaces_no_crosscoder(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "penalised" / "crosscoder").mkdir(parents=True)  # an imported one of that name
    with pytest.raises(CrossproofError, match="penalised already holds a crosscoder"):
        start(config(sources), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["penalised"]


@pytest.mark.parametrize("wrong", [{"text": 5}, {"dtype": "float8"}, {"rows": None}])
def test_settings_of_an_imported_dictionary_have_their_types(wrong: dict[str, Any]) -> None:
    with pytest.raises(CrossproofError, match="does not fit this version"):
        config_from_dict({"imported": [], **wrong})


def test_options_that_resuming_ignores_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--resume", "--out", "run", "--no-evaluate", "--steps", "20", "--seed=0"]
    name_ignored(given, Path("run"))
    said = capsys.readouterr().err
    assert "--steps, --seed ignored: a resumed run keeps the settings in run/config.json" in said
    name_ignored([*given[:4], "--trust-remote-code"], Path("run"))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("log_every", 0), ("checkpoint_every", 0), ("batch_tokens", -4), ("seed", -1)],
        *[("steps", -1), ("skip_first", 0), ("threads", -2)],
    ],
)
def test_numbers_that_cannot_be_are_named(sources: Path, name: str, value: int) -> None:
    with pytest.raises(CrossproofError, match=f"{name} is {value}; it must be"):
        check_settings(config(sources, **{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("lr", float("nan")), ("lr", float("inf")), ("clip", -1.0), ("beta2", 1.0)],
        *[("warmup", 1.5), ("penalty_fraction", 2.0)],
    ],
)
def test_optimisation_that_cannot_be_is_named(sources: Path, name: str, value: float) -> None:
    changed = config(sources, optimisation=Optimisation(**{name: value}))
    with pytest.raises(CrossproofError, match=f"{name} is {value}; it must be finite"):
        check_settings(changed)


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ([{"metadata": {"context_size": 128}}, {"context_size": 64}], 64),
        ([{"trainer": {}, "buffer": {"ctx_len": 96}}], 96),
        ([{"metadata": {"context_size": True}}, {"metadata": "128"}, {"context_size": 0}], 256),
        ([], 256),
    ],
)
def test_imported_dictionaries_read_sequences_as_long_as_in_their_training(
    configs: list[dict[str, object]], expected: int
) -> None:
    """The least of several; without a word of their files, as many as any other run."""
    values = {"imported": [{"config": config} for config in configs]}
    assert config_from_dict(values).context == expected
