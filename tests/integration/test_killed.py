"""kill -9 at random moments: what was written is complete, and the end is the same bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ports import free_port
from tiny_models import gpt_neo, save_model

from crossproof import CrosscoderConfig, RunConfig
from crossproof.activations import TextSlice, store
from crossproof.activations.tokenizing import tokenize_source
from crossproof.evaluation import MeasureOptions, measure_runs, measured_slices
from crossproof.lm import load_model
from crossproof.lm.loading import load_vocabulary
from crossproof.training import distributed
from crossproof.training.run import resume, start, train_run
from crossproof.training.storing import harvest_to

KILLS = {"tokenize": 25, "harvest": 25, "measure": 30, "train": 40}
"""In all 200: training is killed as one, two and four processes."""
INDEX = "crossproof-[ta]*s.json"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    save_model(folder / "model", gpt_neo)
    draw = np.random.default_rng(0)
    words = (" ".join(f"w{t}" for t in draw.integers(1, 60, 60)) for _ in range(3000))
    (folder / "text.txt").write_text("\n<|endoftext|>\n".join(words))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """What counts, once the index is there: the note that it was begun may outlive a kill."""
    every = (path for path in folder.iterdir() if ".begun." not in path.name)
    return {path.name: path.read_bytes() for path in every}


def killed(
    what: str,
    write: Callable[[Path], object],
    folder: Path,
    count: int = 1,
    contents: Callable[[Path], dict[str, bytes]] = contents,
) -> None:
    """Kills and restarts `write` until that has been done often enough; what was finished on the
    way, and in the end, is what an undisturbed run left.

    Of several processes one is killed, and the others as soon as that is seen.
    """
    began = time.perf_counter()
    assert finished(write, folder, count)
    lasts, whole, kills, ends = time.perf_counter() - began, contents(folder), 0, 0
    draw = random.Random(0)
    shutil.rmtree(folder)
    while kills < KILLS[what]:
        done = finished(write, folder, count, draw.uniform(0, 0.7 * lasts), draw.randrange(count))
        kills += not done
        if done:
            assert contents(folder) == whole
            shutil.rmtree(folder)
            ends += 1
    if folder.exists():
        assert finished(write, folder, count)
        assert contents(folder) == whole
        ends += 1
    print(f"{what}, {count} processes: {kills} kills, {ends} times to the end")


def finished(
    write: Callable[[Path], object],
    folder: Path,
    count: int,
    seconds: float | None = None,
    victim: int = 0,
) -> bool:
    """Starts `write` in so many processes, kills it after `seconds`, and whether it was done."""
    # Forks: importing everything anew would take longer than what is tested.
    fork, port = multiprocessing.get_context("fork"), free_port()
    processes = [
        fork.Process(target=of_several, args=(number, count, port, write, folder))
        for number in range(count)
    ]
    for process in processes:
        process.start()
    processes[victim].join(seconds)
    for process in (processes[victim], *processes):
        if seconds is not None:
            process.kill()
        process.join()
    codes = [process.exitcode for process in processes]
    died = codes[victim] == -signal.SIGKILL  # the others may have seen that, and failed
    assert set(codes) <= ({0, 1, -signal.SIGKILL} if died else {0, -signal.SIGKILL})
    return set(codes) == {0}


def of_several(
    number: int, count: int, port: int, write: Callable[[Path], object], folder: Path
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(number), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    write(folder)


def test_tokenize(sources: Path, tmp_path: Path) -> None:
    vocabulary = load_vocabulary(str(sources / "model"))
    text = str(sources / "text.txt")
    killed(
        "tokenize",
        lambda folder: tokenize_source(text, vocabulary, folder, 9000),
        tmp_path / "tokens",
    )


def test_harvest(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 1 << 18)
    torch.set_num_threads(1)
    model = load_model(sources / "model")
    config = config_of(sources, 300)
    killed(
        "harvest", lambda folder: harvest_to(folder, config, model, "bfloat16"), tmp_path / "store"
    )


def config_of(sources: Path, steps: int) -> RunConfig:
    return RunConfig(
        model=str(sources / "model"),
        text=str(sources / "text.txt"),
        hookpoints=("blocks.*.mlp.hook_in",),
        context=32,
        crosscoder=CrosscoderConfig(n_latents=24, k=4),
        steps=steps,
        batch_tokens=256,
        checkpoint_every=10,
        log_every=5,
    )


def of_run(folder: Path) -> dict[str, bytes]:
    """The finished dictionaries, and what was logged but for its speed, each step once."""
    kept = {str(path): path.read_bytes() for path in folder.glob("*/crosscoder/*")}
    for path in folder.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        rest = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]
        kept[str(path)] = json.dumps(rest).encode()
    return kept


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 1), (4, 2)])
def test_train(sources: Path, tmp_path: Path, count: int, columns: int) -> None:
    torch.set_num_threads(1)
    config = config_of(sources, 60)

    def train(folder: Path) -> None:
        with distributed.process_group(columns):
            goes_on = (folder / "config.json").exists()
            train_run(resume(folder) if goes_on else start(config, folder))

    killed("train", train, tmp_path / "run", count, of_run)


def test_measure(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_slices, "SLICE_TOKENS", 1 << 10)
    torch.set_num_threads(1)
    model, run = load_model(sources / "model"), tmp_path / "run"
    config = config_of(sources, 20)
    # In a process of its own: compiled kernels that have run here could not run in its forks.
    assert finished(lambda folder: train_run(start(config, folder)), run, 1)
    text = TextSlice.of_tokens(str(sources / "text.txt"), "held_out", 8000, 32)
    options = MeasureOptions(pairs=1, attention=False, shapley_tokens=0)

    def measure(folder: Path) -> None:
        measure_runs(model, [run], folder, text, options)

    def of_measure(folder: Path) -> dict[str, bytes]:
        found = json.loads((folder / "measure.json").read_text())
        for figures in found["runs"].values():
            figures.pop("seconds")
        sums = {str(path): path.read_bytes() for path in folder.glob("*/*")}
        return {"measure.json": json.dumps(found).encode(), **sums}

    killed("measure", measure, tmp_path / "measure", contents=of_measure)
