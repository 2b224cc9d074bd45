"""A checkpoint of processes that share out latents holds all that the steps after it depend on."""

from __future__ import annotations

from pathlib import Path

import torch
from processes import together
from texts import write_corpus

from crossproof import CrosscoderConfig, RunConfig
from crossproof.training import distributed
from crossproof.training.checkpoint import Checkpoints
from crossproof.training.run import resume, start, train_run


def stopped_and_not(config: RunConfig, folder: Path) -> None:
    train_run(start(config, folder / "whole"))
    run = start(config, folder / "stopped")
    written = Checkpoints(run.folder, run.training)
    for progress in run.training.steps():
        if progress.step == 4:
            written.save()
            break
    written.finish()
    kept = {name: trainer.state() for name, trainer in run.training.trainers.items()}
    distributed.wait_for_all()  # until the first has given it its name
    again = resume(folder / "stopped")
    assert again.training.step == 4
    for name, trainer in again.training.trainers.items():
        assert trainer.state().keys() == kept[name].keys()
        assert all(torch.equal(kept[name][key], each) for key, each in trainer.state().items())
    train_run(again)


def test_adams_moments_are_read_again(model_folders: dict[str, Path], tmp_path: Path) -> None:
    config = RunConfig(
        model=str(model_folders["gpt-neo"]),
        text=str(write_corpus(tmp_path / "corpus.txt")),
        hookpoints=("blocks.*.mlp.hook_in",),
        context=32,
        crosscoder=CrosscoderConfig(n_latents=24, k=4),
        steps=8,
        batch_tokens=64,
        buffer_batches=2,
    )
    together(stopped_and_not, config, tmp_path, count=2, columns=2)
    files = sorted((tmp_path / "whole").glob("*/crosscoder/crosscoder.safetensors"))
    assert files
    for file in files:
        other = tmp_path / "stopped" / file.relative_to(tmp_path / "whole")
        assert file.read_bytes() == other.read_bytes()
