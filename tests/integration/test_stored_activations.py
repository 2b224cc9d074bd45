"""Activations stored once, trained from often: to the same bytes, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import gpt_neo, save_model, tuned_gpt_neo

from crossproof import CrosscoderConfig, Objective, RunConfig, train
from crossproof.activations import store
from crossproof.activations.config import StoredDtype
from crossproof.cli import main
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.lm import LanguageModel, load_model
from crossproof.training import TrainingResult
from crossproof.training.run import resume, start, train_run
from crossproof.training.stored import with_stored
from crossproof.training.storing import harvest_to


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a text and a small float32 store in several files."""
    folder = tmp_path_factory.mktemp("sources")
    save_model(folder / "model", gpt_neo)
    words = np.random.default_rng(0).integers(1, 60, 1500)
    (folder / "text.txt").write_text(" ".join(f"w{each}" for each in words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD_BYTES", 3 * 32 * 2 * 16 * 4)  # three batches
        harvest_to(folder / "store", config(folder), load_model(folder / "model"), "float32")
    return folder


def config(sources: Path, **options: Any) -> RunConfig:
    settings: dict[str, Any] = {
        "model": str(sources / "model"),
        "text": str(sources / "text.txt"),
        "hookpoints": ("blocks.*.mlp.hook_in",),
        "context": 16,
        "crosscoder": CrosscoderConfig(n_latents=24, k=4),
        "objective": Objective(keep_largest=10.0),
        "steps": 10,
        "batch_tokens": 32,
        "buffer_batches": 4,
        "checkpoint_every": 4,
        "log_every": 1,
    }
    return RunConfig(**(settings | options))


def from_store(sources: Path, **options: Any) -> RunConfig:
    """As `config`, with what the store knows left out."""
    known = ("model", "text", "hookpoints", "context", "batch_tokens", "buffer_batches")
    usual = {name: getattr(RunConfig(), name) for name in known}
    return config(sources, **(usual | {"activations": str(sources / "store")} | options))


def same(one: TrainingResult, other: TrainingResult) -> bool:
    """Whether both have the same dictionaries to the last bit."""
    assert list(one.runs) == list(other.runs)
    states = ([each.crosscoder(name).state_dict() for name in one.runs] for each in (one, other))
    return all(
        left.keys() == right.keys() and all(map(torch.equal, left.values(), right.values()))
        for left, right in zip(*states, strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"drop_outliers": 3.0}, marks=pytest.mark.slow),
        pytest.param(
            {"hookpoints": ("blocks.*.hook_resid_mid",), "penalise": "all"}, marks=pytest.mark.slow
        ),
        {
            "specs": '{"a": {"k": 2, "interaction": 3.0}, "b": {"keep_largest": 0,'
            ' "hookpoints": ["blocks.1.mlp.hook_in"]}}'
        },
    ],
    ids=["outliers", "upstream", "several"],
)
def test_a_float32_store_trains_to_the_same_bytes(
    sources: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder, model = tmp_path / "store", load_model(sources / "model")
    harvest_to(folder, config(sources, **options), model, "float32")
    stored = from_store(sources, activations=str(folder), **options)
    if "drop_outliers" in options:
        stored = replace(stored, drop_outliers=0.0)
    live, again = train(config(sources, **options)), train(stored)
    if "specs" in options:  # a sweep: each with its own objective, "b" without penalties
        assert list(live.runs) == ["unpenalised/a", "unpenalised/b", "penalised/a"]
        assert live.runs["penalised/a"].objective == {"keep_largest": 10.0, "interaction": 3.0}
    assert same(live, again)
    assert live.massive == again.massive


@pytest.mark.parametrize(("dtype", "rounding"), [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
def test_other_stores_are_rounded_once(
    sources: Path, tmp_path: Path, dtype: StoredDtype, rounding: float
) -> None:
    model = load_model(sources / "model")
    said: list[str] = []
    harvest_to(tmp_path / "store", config(sources, steps=4), model, dtype, said.append)
    size = 4 * 32 * 2 * 16 * 2
    assert said == [f"4 batches of 32 tokens at 2 hookpoints in {dtype}: {size:,} bytes."]
    on_disk = sum(each.stat().st_size for each in (tmp_path / "store").glob("*.safetensors"))
    assert 0 < on_disk - size < 1000
    names = ("blocks.0.mlp.hook_in", "blocks.1.mlp.hook_in")
    exact = store.StoredActivations(sources / "store", model, names, 32)
    rounded = store.StoredActivations(tmp_path / "store", model, names, 32)
    for step in range(4):
        x, y = exact.batch(step), rounded.batch(step)
        tiny = 2.0**-24 if dtype == "float16" else 0.0  # below its normal numbers
        assert bool(((x - y).abs() <= rounding * x.abs() + tiny).all())


def test_batches_of_another_size_and_hookpoint_come_in_the_stores_order(sources: Path) -> None:
    model, names = load_model(sources / "model"), ("blocks.1.mlp.hook_in",)
    whole = store.StoredActivations(sources / "store", model, names, 320).batch(0)
    for size in (7, 32, 50):
        parts = store.StoredActivations(sources / "store", model, names, size)
        assert parts.batches == 320 // size
        for step in (0, parts.batches - 1, 2, parts.batches + 1):
            first = step % parts.batches * size
            assert torch.equal(parts.batch(step), whole[first : first + size])
    halves = [
        store.StoredActivations(sources / "store", model, names, 32, slice(rank, None, 2)).batch(3)
        for rank in range(2)
    ]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), whole[96:128])


def test_a_resumed_run_reads_the_store_on(sources: Path, tmp_path: Path) -> None:
    settings = with_stored(from_store(sources))
    train_run(start(settings, tmp_path / "whole"))
    run = start(settings, tmp_path / "stopped")

    class Crash(Exception):  # noqa: N818
        pass

    def crash(progress: Any) -> None:
        if progress.step == 6:
            raise Crash

    with pytest.raises(Crash):
        train_run(run, crash)
    again = resume(tmp_path / "stopped")
    assert again.training.step == 4
    train_run(again)
    for path in (tmp_path / "whole").glob("*/crosscoder/*.safetensors"):
        other = tmp_path / "stopped" / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()


def test_a_stopped_store_is_completed_to_the_same_bytes(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 3 * 32 * 2 * 16 * 4)
    half = shutil.copytree(sources / "store", tmp_path / "half")
    index = json.loads((half / "crossproof-activations.json").read_text())
    (half / "crossproof-activations.json").unlink()
    hashes = index.pop("sha256")
    assert len(hashes) == 4
    (half / "crossproof-activations.begun.json").write_text(json.dumps(index))
    (half / "activations-00002.safetensors").unlink()
    (half / ".activations-00002.safetensors.7.tmp").write_bytes(b"half")
    model = load_model(sources / "model")
    with pytest.raises(CrossproofError, match="repeat the `crossproof harvest`"):
        store.read_index(half)
    with pytest.raises(CrossproofError, match=r"settings differ"):
        harvest_to(half, config(sources, seed=1), model, "float32")
    harvest_to(half, config(sources), model, "float32")
    every = {path.name: path.read_bytes() for path in half.iterdir()}
    assert every == {path.name: path.read_bytes() for path in (sources / "store").iterdir()}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda f: flip(f / "activations-00001.safetensors"), "SHA-256"),
    "cut off": (
        lambda f: (f / "activations-00000.safetensors").write_bytes(b"1234"),
        "is damaged",
    ),
    "missing": (lambda f: (f / "activations-00003.safetensors").unlink(), "is damaged"),
    "no index": (lambda f: (f / "crossproof-activations.json").unlink(), "holds no activations"),
    "an empty index": (
        lambda f: (f / "crossproof-activations.json").write_text(
            '{"format": "crossproof-activations-1"}'
        ),
        "is damaged",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_damage_is_one_sentence(sources: Path, tmp_path: Path, how: str) -> None:
    spoiled = shutil.copytree(sources / "store", tmp_path / "store")
    spoil, says = REFUSED[how]
    spoil(spoiled)
    model = load_model(sources / "model")

    def everything() -> None:
        stored = store.StoredActivations(spoiled, model, ("blocks.1.mlp.hook_in",), 32)
        for step in range(stored.batches):
            stored.batch(step)

    with pytest.raises(CrossproofError, match=says):
        everything()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "other.txt"}, "--text is other.txt"),
        ({"context": 8}, "--context is 8"),
        ({"drop_outliers": 10.0}, "--drop-outliers is 10.0"),
        ({"dtype": "bfloat16"}, "--dtype is bfloat16"),
        ({"model": "bundled-benign"}, "load the model that they were harvested from"),
        ({"hookpoints": ("blocks.0.hook_resid_pre",)}, "lack 'blocks.0.hook_resid_pre'"),
        ({"batch_tokens": 4096}, "fewer than one batch"),
    ],
)
def test_what_contradicts_a_store_is_refused(
    sources: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(CrossproofError, match=says):
        train(from_store(sources, **options))


def test_what_is_given_in_memory_is_refused_beside_a_store(
    sources: Path, gpt_neo: LanguageModel
) -> None:
    with pytest.raises(CrossproofError, match="--text is given in memory"):
        train(from_store(sources), text=torch.ones(8, 16, dtype=torch.int64))
    with pytest.raises(CrossproofError, match="load the model"):
        train(from_store(sources), model=load_model(save_model(sources / "b", tuned_gpt_neo)))


def test_too_little_space_is_said_before_anything_is_written(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CrossproofError, match=r"would take .* GiB and"):
        harvest_to(tmp_path / "store", config(sources), load_model(sources / "model"))
    assert not (tmp_path / "store").exists()


def test_a_store_that_ends_is_read_again_with_a_word(sources: Path) -> None:
    with pytest.warns(CrossproofWarning, match="holds 10 batches of 32 tokens: 12 steps read"):
        train(from_store(sources, steps=12))


def test_command_lines(sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--steps", "8", "--n-latents", "24", "--k", "4", "--log-every", "4"]
    text = ["--model", str(sources / "model"), "--text", str(sources / "text.txt")]
    shape = ["--context", "16", "--batch-tokens", "32", "--buffer-batches", "8"]
    out, run = tmp_path / "store", tmp_path / "run"
    main(["harvest", *text, *shape, *common, "--store-as", "float32", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "bytes." in printed
    assert f"crossproof train --activations {out}" in printed
    main(["train", "--activations", str(out), *common, "--out", str(run), "--no-evaluate"])
    live = tmp_path / "live"
    main(["train", *text, *shape, *common, "--out", str(live), "--no-evaluate"])
    for path in live.glob("*/crosscoder/*.safetensors"):
        assert path.read_bytes() == (run / path.relative_to(live)).read_bytes()
    assert "activations" not in json.loads((live / "config.json").read_text())
    with pytest.raises(SystemExit, match=r"--text is bundled, and .* was harvested with"):
        main(
            ["train", "--activations", str(out), "--text", "bundled", "--out", str(tmp_path / "x")]
        )
    with pytest.raises(SystemExit, match=r"already holds activations"):
        main(["harvest", *text, *shape, *common, "--out", str(out)])
