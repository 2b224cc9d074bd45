"""Trains a small network and its dictionary, for `crossproof prove`.

python -m paper.scripts.toy_network sparse --out runs/sparse
crossproof prove runs/sparse --dictionary runs/sparse/dictionary --out runs/certificate
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.crosscoder import Provenance, save_crosscoder
from crossproof.proof.bounds import save_network
from paper.tasks import QUICK_STEPS, TASKS, Plan, attention, build

Task = Literal["sparse", "coactive", "continuum", "modular-53", "modular-113", "max-of-4"]


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
    if options.task == "max-of-4":
        return _largest(options)
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


def _largest(options: ToyNetwork) -> None:
    recipe = attention.LargestRecipe()
    if options.quick:
        recipe = replace(recipe, steps=QUICK_STEPS, dictionary_steps=QUICK_STEPS)
    network, domain = attention.train(recipe, options.seed)
    save_network(options.out, network, domain)
    learned = attention.learn(network, recipe, options.seed)
    origin = Provenance(options.task, network.hash, options.seed, {})
    save_crosscoder(learned, options.out / "dictionary", origin)
    print(f"{options.out}: `crossproof prove {options.out} --out ...` says how often it is right")


if __name__ == "__main__":
    main(tyro.cli(ToyNetwork))
