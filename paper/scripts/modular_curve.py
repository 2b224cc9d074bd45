"""Certified accuracy of addition modulo p against how far, and how, the network was trained.

    python -m paper.scripts.modular_curve --p 53 --purities 0 0.01 0.1 --out runs/modular-53.json

One network for each seed and strength of the purity penalty (what neurons read and write outside
their frequency; 0 is weight decay alone). At every checkpoint the network is folded as it stands
and a `pairs` certificate is searched and verified; beside it the impurity of its neurons (share of
power outside their frequency).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from crossproof.files import write_json
from crossproof.proof.bounds import Network, PairDomain
from crossproof.proof.certificate import as_certificate, best_draft, judge
from paper.tasks import TASKS, modular
from paper.toys.frequencies import find_frequencies


@dataclass(frozen=True)
class Curve:
    """Trains networks and certifies them at checkpoints."""

    p: int = 53
    """53 or 113: the tasks' own recipes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoints: tuple[int, ...] = (0, 50, 100, 150, 200, 300, 500, 750, 1000)
    purities: tuple[float, ...] = (0.1,)
    """Strengths of the penalty on what a neuron reads and writes outside its frequency."""
    threads: int = 1
    out: Path = Path("runs/modular.json")


def describe(network: Network, domain: PairDomain) -> dict[str, Any]:
    """Accuracy, purity and what is certified of one checkpoint."""
    began = time.perf_counter()
    verdict = judge(as_certificate(best_draft(network, domain)))
    found = find_frequencies(network, domain)
    live = found.weight > 0.01
    logits, labels = network.logits(domain.inputs()), domain.labels()
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "ce": torch.nn.functional.cross_entropy(logits, labels).item(),
        "certified_accuracy": verdict.accuracy,
        "certified_ce": verdict.cross_entropy,
        "verifier_operations": verdict.operations,
        "brute_force_operations": verdict.brute_force,
        "neurons": int(live.sum()),
        "frequencies": found.used,
        "impurity": _quantiles(found.impurity[live]),
        "output_impurity": _quantiles(found.output_impurity[live]),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _quantiles(values: Tensor) -> dict[str, float]:
    return {"median": values.median().item(), "largest": values.max().item()}


def train(
    options: Curve, seed: int, purity: float, curve: dict[str, Any], save: Callable[[], None]
) -> None:
    """One network; `curve` gains a point and is saved at every checkpoint."""
    recipe = TASKS[f"modular-{options.p}"]
    assert isinstance(recipe, modular.ModularRecipe)
    recipe = replace(recipe, steps=max(options.checkpoints), purity=purity, output_purity=purity)
    curve |= {"seed": seed, "recipe": asdict(recipe), "points": []}

    def watch(step: int, weights: modular.ModularWeights) -> None:
        if step not in options.checkpoints:
            return
        last = {"step": step} | describe(*weights.fold())
        curve["points"].append(last)
        save()
        impurity = last["impurity"]["median"], last["output_impurity"]["median"]
        print(
            f"seed {seed} purity {purity:<5g} step {step:5d}  accuracy {last['accuracy']:.4f}  "
            f"certified {last['certified_accuracy']:.4f}  impurity {impurity[0]:.1e} read, "
            f"{impurity[1]:.1e} written  {len(last['frequencies'])} frequencies",
            flush=True,
        )

    modular.train(recipe, seed, watch)


def main(options: Curve) -> None:
    """Trains, certifies, writes the file anew after every checkpoint."""
    torch.set_num_threads(options.threads)
    curves: list[dict[str, Any]] = []

    def save() -> None:
        content = {"p": options.p, "curves": curves}
        write_json(options.out, content)

    for seed, purity in itertools.product(options.seeds, options.purities):
        curves.append({})
        train(options, seed, purity, curves[-1], save)


if __name__ == "__main__":
    main(tyro.cli(Curve))
