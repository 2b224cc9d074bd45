"""How a step of training grows with latents, tokens and processes: processor time and memory.

    python benchmarks/scale.py
    python benchmarks/scale.py --latents 4096 --processes 1x1 2x2

Processes are forked here and train the bundled model's second MLP input with an interaction
penalty, as `torchrun -m crossproof train` does: rows x columns, columns being --latent-processes.
Time is what the processes computed, together, in the steps that one run has more than another,
whatever else the machine does; the language model runs on as many tokens in both. Memory is the
largest of any process, PyTorch's own (the first line) included. Collectives on one machine's cores
say nothing of links between GPUs.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

import crossproof
from crossproof.cli import main as command

GIB = 2**30


@dataclass(frozen=True)
class ScaleBenchmark:
    """What to measure."""

    latents: tuple[int, ...] = (4096, 16384, 65536)
    """Dictionary sizes H."""
    tokens: tuple[int, ...] = (256, 1024)
    """Tokens a step."""
    processes: tuple[str, ...] = ("1x1", "2x2", "1x4")
    """Rows x columns."""
    steps: tuple[int, int] = (2, 12)
    """Of the two runs."""


def main() -> None:
    """Prints a row a case."""
    args = tyro.cli(ScaleBenchmark, description=__doc__)
    torch.set_num_threads(1)
    model = crossproof.load_model()
    at_rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    print(f"{model.name}, D = {model.d_model}; before training {at_rest:.2f} GB a process")
    print("latents, tokens, rows x columns: processor seconds a step, of all; GB of the largest")
    del model
    few, many = args.steps
    for latents in args.latents:
        for tokens in args.tokens:
            for shape in args.processes:
                rows, columns = map(int, shape.split("x"))
                how = latents, tokens, rows, columns, max(args.steps)
                less, _ = trained(*how, few)
                more, memory = trained(*how, many)
                seconds = (more - less) / (many - few)
                print(f"{latents}, {tokens}, {shape}: {seconds:.2f}; {memory:.2f}", flush=True)


def trained(
    latents: int, tokens: int, rows: int, columns: int, buffer: int, steps: int
) -> tuple[float, float]:
    """Processor seconds of all processes, and the memory of the largest."""
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        options = ["--out", str(Path(folder) / "run"), "--no-evaluate", "--no-baseline"]
        options += ["--hookpoints", "blocks.1.mlp.hook_in", "--interaction", "10", "--k", "16"]
        options += ["--n-latents", str(latents), "--batch-tokens", str(tokens)]
        options += ["--steps", str(steps), "--buffer-batches", str(buffer), "--threads", "1"]
        options += ["--latent-processes", str(columns)]
        count = rows * columns
        pids = [forked(number, count, port, options) for number in range(count)]
        ended = [os.wait4(pid, 0) for pid in pids]
    if any(status for _, status, _ in ended):
        sys.exit("a process failed")
    seconds = sum(usage.ru_utime + usage.ru_stime for _, _, usage in ended)
    return seconds, max(usage.ru_maxrss for _, _, usage in ended) * 1024 / GIB


def forked(number: int, count: int, port: int, options: list[str]) -> int:
    """The id of a process that trains; PyTorch is imported already."""
    if pid := os.fork():
        return pid
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(number), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    failed = 1
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            command(["train", *options])
        failed = 0
    except SystemExit as error:
        print(error.code, file=sys.stderr, flush=True)
    finally:
        os._exit(failed)


if __name__ == "__main__":
    main()
