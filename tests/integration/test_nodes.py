"""`torchrun --nnodes 2`: two groups of two processes, as of two machines, train as one does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ports import free_port
from processes import command_of, environment, torchrun
from texts import write_corpus


def of_two_nodes(*arguments: str) -> None:
    """A command by two torchruns that meet at a port, two processes each."""
    where = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}"]
    launch, each = command_of(2)[:3], "--nproc-per-node=2"
    commands = [
        [*launch, *where, f"--node-rank={node}", each, *command_of(2, *arguments)[5:]]
        for node in range(2)
    ]
    nodes = [
        subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    try:
        for node in nodes:
            _, errors = node.communicate(timeout=300)
            assert node.returncode == 0, errors
    finally:
        for node in nodes:
            node.kill()


@pytest.mark.slow
@pytest.mark.parametrize("columns", ["1", "2", "4"])
def test_two_nodes_train_what_one_does(
    columns: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus.txt")
    options = ["--model", str(model_folders["gpt-neo"]), "--text", str(corpus), "--no-baseline"]
    options += ["--batch-tokens", "64", "--buffer-batches", "4", "--context", "32", "--no-evaluate"]
    options += ["--n-latents", "24", "--k", "4", "--steps", "20", "--checkpoint-every", "5"]
    options += ["--keep-largest", "100", "--log-every", "5", "--latent-processes", columns]
    of_two_nodes("train", "--out", str(tmp_path / "two"), *options)
    done = torchrun("train", "--out", str(tmp_path / "one"), *options, processes=4)
    assert done.returncode == 0, done.stderr
    file = Path("penalised", "crosscoder", "crosscoder.safetensors")
    assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
