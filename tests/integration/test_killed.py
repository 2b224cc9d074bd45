"""kill -9 at random moments: what was written is complete, and the end is the same bytes."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import gpt_neo, save_model

from crossproof import CrosscoderConfig, RunConfig
from crossproof.activations import store
from crossproof.activations.tokenizing import tokenize_source
from crossproof.lm import load_model
from crossproof.lm.loading import load_vocabulary
from crossproof.training.storing import harvest_to

KILLS = 25
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


def killed(write: Callable[[Path], object], folder: Path) -> tuple[int, int]:
    """Kills and restarts `write` until there were KILLS; how many, and how many runs that ended."""
    began = time.perf_counter()
    write(folder)
    lasts, whole, kills, ends = time.perf_counter() - began, contents(folder), 0, 0
    draw = random.Random(0)
    shutil.rmtree(folder)
    while kills < KILLS:
        # A fork: importing everything anew would take longer than what is tested.
        process = multiprocessing.get_context("fork").Process(target=write, args=(folder,))
        process.start()
        process.join(draw.uniform(0, 0.7 * lasts))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        if any(folder.glob(INDEX)):
            assert contents(folder) == whole
            shutil.rmtree(folder)
            ends += 1
    if folder.exists():
        write(folder)
        assert contents(folder) == whole
    return kills, ends


def test_tokenize(sources: Path, tmp_path: Path) -> None:
    vocabulary = load_vocabulary(str(sources / "model"))
    text = str(sources / "text.txt")
    kills, ends = killed(
        lambda folder: tokenize_source(text, vocabulary, folder, 9000), tmp_path / "tokens"
    )
    print(f"tokenize: {kills} kills, {ends + 1} times to the end")


def test_harvest(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 1 << 18)
    torch.set_num_threads(1)
    model = load_model(sources / "model")
    config = RunConfig(
        model=str(sources / "model"),
        text=str(sources / "text.txt"),
        hookpoints=("blocks.*.mlp.hook_in",),
        context=32,
        crosscoder=CrosscoderConfig(n_latents=24, k=4),
        steps=300,
        batch_tokens=256,
    )
    kills, ends = killed(
        lambda folder: harvest_to(folder, config, model, "bfloat16"), tmp_path / "store"
    )
    print(f"harvest: {kills} kills, {ends + 1} times to the end")
