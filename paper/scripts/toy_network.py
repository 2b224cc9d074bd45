"""Trains a small network and its dictionary, for `crossproof prove`.

python -m paper.scripts.toy_network sparse --out runs/sparse
crossproof prove runs/sparse --dictionary runs/sparse/dictionary --out runs/certificate
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.crosscoder import Provenance, save_crosscoder
from crossproof.proof.bounds import save_network
from paper.tasks import TASKS, Plan, build

Task = Literal["sparse", "coactive", "continuum", "modular-53", "modular-113"]


@dataclass(frozen=True)
class ToyNetwork:
    """Trains the network of a task, and the dictionary of its inputs if it has one."""

    task: Annotated[Task, tyro.conf.Positional]
    """What the network does."""
    out: Path
    """Folder for network.safetensors, and the crosscoder in dictionary/."""
    seed: int = 0
    quick: bool = False
    """Train for a shorter time."""


def main(options: ToyNetwork) -> None:
    """Trains, writes the folder, says how often the network is right."""
    built = build(options.task, options.seed, options.quick)
    save_network(options.out, built.network, built.domain)
    if built.crosscoder is not None:
        plan = TASKS[options.task]
        assert isinstance(plan, Plan)
        origin = Provenance(
            options.task, built.network.hash, built.seed, plan.dictionary.objective.strengths()
        )
        save_crosscoder(built.crosscoder, options.out / "dictionary", origin)
    print(f"{options.out}: right on {built.accuracy:.4f}, in {built.seconds:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(ToyNetwork))
