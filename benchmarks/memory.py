"""How much memory a training is said to take, and how much it takes.

    python benchmarks/memory.py

Each row in a fresh process: the estimate of `crossproof train --dry-run`, then three steps on the
bundled model and the largest resident memory. The same on every machine, whatever else runs.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import dataclass, replace

import torch
import tyro

import crossproof
from crossproof.training import RECIPES, Training, estimate_memory

GIB = 2**30
OBJECTIVES = {
    "none": crossproof.Objective(),
    "interaction": crossproof.Objective(interaction=100.0),
    "keep_largest": crossproof.Objective(keep_largest=1000.0, all_latents=1000.0),
}
CASES = (
    ("4096", "1024", "batch_topk", "keep_largest", "1.0", "1"),
    ("16384", "2048", "topk", "interaction", "1.0", "1"),
    ("16384", "512", "batch_topk", "keep_largest", "0.5", "2"),
    ("2048", "4096", "batch_topk", "keep_largest", "1.0", "1"),
    ("8192", "1024", "topk", "none", "1.0", "2"),
    ("8192", "1024", "relu", "none", "1.0", "1"),
    ("8192", "512", "jumprelu", "interaction", "1.0", "1"),
)
"""Latents, tokens a step, rule, objective, fraction of tokens penalised, dictionaries."""


@dataclass(frozen=True)
class MemoryBenchmark:
    """What to measure."""

    case: tuple[str, ...] = ()
    """One of the rows, in this process; none: all, each in its own."""


def main() -> None:
    """Prints a row a case."""
    case = tyro.cli(MemoryBenchmark, description=__doc__).case
    if case:
        measure(*case)
        return
    print("latents, tokens, rule, objective, fraction, dictionaries: said, taken (GiB), ratio")
    for each in CASES:
        subprocess.run([sys.executable, __file__, "--case", *each], check=True)


def measure(latents: str, tokens: str, rule: str, name: str, fraction: str, count: str) -> None:
    """One row."""
    torch.set_num_threads(1)
    model, recipe = crossproof.load_model("bundled"), RECIPES["demo"]
    how = replace(
        recipe.optimisation,
        penalty_fraction=float(fraction),
        penalty_warmup=0.0,
        penalty_delay=0.0,
    )
    config = replace(
        recipe,
        crosscoder=crossproof.CrosscoderConfig(int(latents), rule, 16),
        objective=OBJECTIVES[name],
        optimisation=how,
        batch_tokens=int(tokens),
        buffer_batches=16,
        steps=100,
    )
    configs = {str(number): config for number in range(int(count))}
    sequences = crossproof.read_sequences(config.text, model, 128)
    said = estimate_memory(model, configs).total / GIB
    steps = Training.build(model, sequences, configs).steps()
    for _ in range(3):
        next(steps)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    row = ", ".join((latents, tokens, rule, name, fraction, count))
    print(f"{row}: {said:.2f}, {taken:.2f}, {said / taken:.2f}", flush=True)


if __name__ == "__main__":
    main()
