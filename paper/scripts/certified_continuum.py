"""What a learned dictionary adds to certificates over all activations at once.

    python -m paper.scripts.certified_continuum --out paper/data/certified-continuum.json

For each seed: the network of the task `continuum`, its Monte-Carlo accuracy, and the certified
accuracy after looking at the same number of boxes with the bounds named, for the task's dictionary
(R + I), the same dictionary without penalty, and the features that generate the inputs. `additive`
alone reads the network through the dictionary only; `interval` and `linear` know none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from crossproof.files import write_json
from crossproof.proof.bounds import Dictionary, Network, SparseDomain
from crossproof.proof.certificate import (
    AffineLatents,
    as_certificate,
    boxes_draft,
    fitted_latents,
    generating_latents,
    judge,
)
from crossproof.training import Objective
from paper.tasks import TASKS, Plan, held_out_seed, learn, sparse

BOUNDS: dict[str, tuple[str, ...]] = {
    "all": ("interval", "additive", "linear"),
    "interval, additive": ("interval", "additive"),
    "additive": ("additive",),
    "interval": ("interval",),
    "linear": ("linear",),
}


@dataclass(frozen=True)
class Continuum:
    """Trains, searches and counts."""

    seeds: tuple[int, ...] = (0, 1, 2)
    nodes: int = 20_000
    """Boxes looked at by each search."""
    points: int = 20_000
    """Of the Monte-Carlo accuracy."""
    threads: int = 1
    out: Path = Path("runs/continuum.json")


def dictionaries(
    plan: Plan, network: Network, domain: SparseDomain, seed: int, x: torch.Tensor
) -> dict[str, tuple[AffineLatents, float]]:
    """Latents in every active set, and the share of variance that each dictionary leaves."""
    found = {"true features": (generating_latents(domain), 0.0)}
    spread = (x - x.mean(0)).pow(2).sum()
    for name, objective in (("R + I", plan.dictionary.objective), ("no penalty", Objective())):
        recipe = replace(plan.dictionary, objective=objective)
        learned = Dictionary.of_crosscoder(learn(network, domain, recipe, seed))
        fvu = float((x - learned.decode(learned.encode(x))).pow(2).sum() / spread)
        latents = fitted_latents(domain, learned.decoder, learned.bias, learned.encode)
        found[name] = latents, fvu
    return found


def measure(options: Continuum, seed: int) -> dict[str, Any]:
    """All searches of one seed."""
    plan = TASKS["continuum"]
    assert isinstance(plan, Plan)
    domain = sparse.make_domain(plan.network, seed)
    network = sparse.train(plan.network, domain, seed)
    generator = torch.Generator().manual_seed(held_out_seed(seed))
    activations, labels = domain.sample(options.points, generator)
    x = domain.inputs(activations)
    truth = float((network.logits(x).argmax(1) == labels).double().mean())
    row: dict[str, Any] = {"seed": seed, "accuracy": truth, "dictionaries": {}}
    for name, (latents, fvu) in dictionaries(plan, network, domain, seed, x).items():
        found: dict[str, Any] = {"fvu": fvu}
        for label, bounds in BOUNDS.items():
            draft = boxes_draft(network, domain, latents, nodes=options.nodes, bounds=bounds)
            verdict = judge(as_certificate(draft))
            found[label] = {
                "certified": verdict.accuracy,
                "share": verdict.accuracy / truth,
                "by_bound": verdict.by_bound,
                "operations": verdict.operations,
                "boxes": len(draft.proof["tree"]),
            }
        row["dictionaries"][name] = found
        shares = "  ".join(f"{label} {found[label]['share']:.3f}" for label in BOUNDS)
        print(f"seed {seed} {name:14s} FVU {fvu:.4f}  accuracy {truth:.3f}  {shares}", flush=True)
    return row


def main(options: Continuum) -> None:
    """Measures every seed; the file is written anew after each."""
    torch.set_num_threads(options.threads)
    rows = []
    for seed in options.seeds:
        rows.append(measure(options, seed))
        content = {"nodes": options.nodes, "points": options.points, "seeds": rows}
        write_json(options.out, content)


if __name__ == "__main__":
    main(tyro.cli(Continuum))
