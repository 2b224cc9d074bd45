"""Certified accuracy of multiplication in finite groups, on several seeds.

    python -m paper.scripts.certified_groups --group A5 --out paper/data/certified-group-A5.json

For each seed and strength of the purity penalty (what neurons read and write outside one isotypic
component; 0 is weight decay alone) a network is trained on all pairs, and `products` certificates
are searched: the cheapest of highest accuracy, and the best that is a third of brute force's cost.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from crossproof.files import write_json
from crossproof.proof.bounds import GroupDomain, Network
from crossproof.proof.certificate import as_certificate, components, judge, product_drafts
from paper.tasks import group
from paper.tasks.modular import ModularRecipe

STEPS = {"S4": 1000, "A5": 800, "S5": 500}


@dataclass(frozen=True)
class CertifiedGroups:
    """Trains and certifies."""

    group: Literal["S4", "A5", "S5"] = "S4"
    seeds: tuple[int, ...] = (0, 1, 2)
    purities: tuple[float, ...] = (0.0, 0.1)
    steps: int = 0
    """0: as many as the group is usually trained for."""
    threads: int = 1
    out: Path = Path("runs/group.json")


def certified(network: Network, domain: GroupDomain) -> dict[str, Any]:
    """The truth, and what every certificate of the search proves."""
    logits, labels = network.logits(domain.inputs()), domain.labels()
    searched = []
    for draft in product_drafts(network, domain):
        verdict = judge(as_certificate(draft))
        assert draft.dictionary is not None
        searched.append(
            {
                "accuracy": verdict.accuracy,
                "cross_entropy": verdict.cross_entropy,
                "operations": verdict.operations,
                "brute_force": verdict.brute_force,
                "atoms": len(draft.dictionary["atoms"]),
                "blocks": len(set(draft.proof["owners"].tolist()) - {0}),
            }
        )
    return {
        "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        "cross_entropy": torch.nn.functional.cross_entropy(logits, labels).item(),
        "impurity": _impurity(network, domain),
        "searched": searched,
    }


def _impurity(network: Network, domain: GroupDomain) -> float:
    """Median share of a neuron's output power outside its component."""
    rows = network.W_out - network.W_out.mean(dim=1, keepdim=True)
    bases = [torch.from_numpy(b.copy()) for b in components(domain.table.numpy())]
    power = group.powers(rows.T, bases)
    live = power.sum(dim=0) > 0.01 * power.sum(dim=0).max()
    return (1 - power.amax(dim=0) / power.sum(dim=0))[live].median().item()


def main(options: CertifiedGroups) -> None:
    """Trains, certifies, writes the file anew after every network."""
    torch.set_num_threads(options.threads)
    table, networks = group.GROUPS[options.group](), []
    steps = options.steps or STEPS[options.group]
    for purity, seed in itertools.product(options.purities, options.seeds):
        began = time.perf_counter()
        recipe = ModularRecipe(p=len(table), steps=steps, purity=purity)
        network, domain = group.train(table, recipe, seed)
        row = {"seed": seed, "purity": purity, "seconds": time.perf_counter() - began}
        networks.append(row | certified(network, domain))
        content = {"group": options.group, "order": len(table), "steps": steps}
        write_json(options.out, content | {"networks": networks})
        print(networks[-1], flush=True)


if __name__ == "__main__":
    main(tyro.cli(CertifiedGroups))
