"""Small tasks on which certificates are built: networks, domains and dictionaries from a seed.

built = build("coactive", seed=0)
built.network, built.domain, built.crosscoder, built.accuracy
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from crossproof.crosscoder import Crosscoder
from crossproof.errors import CrossproofError, nearest
from crossproof.proof.bounds import Network, PairDomain, SparseDomain
from crossproof.training import Objective
from paper.tasks import modular, sparse
from paper.tasks.dictionary import DictionaryRecipe, learn

__all__ = [
    "TASKS",
    "Built",
    "DictionaryRecipe",
    "Plan",
    "build",
    "held_out_seed",
    "learn",
    "modular",
    "sparse",
]

HELD_OUT = 20_000
"""Points on which the accuracy of a sparse task's network is measured."""


@dataclass(frozen=True)
class Plan:
    """A sparse task: its network, and the dictionary learned for it."""

    network: sparse.SparseRecipe
    dictionary: DictionaryRecipe


TASKS: dict[str, Plan | modular.ModularRecipe] = {
    "sparse": Plan(
        sparse.SparseRecipe(),
        DictionaryRecipe(latents=48, k=2, objective=Objective(certified=0.1)),
    ),
    "coactive": Plan(
        sparse.SparseRecipe(active="partners", width=24, weight_decay=1.0),
        DictionaryRecipe(latents=96, k=4, objective=Objective(certified=0.1), steps=6000),
    ),
    "continuum": Plan(
        sparse.SparseRecipe(weight_decay=0.5),
        DictionaryRecipe(latents=48, k=2, objective=Objective(certified=0.1)),
    ),
    "modular-53": modular.ModularRecipe(p=53, steps=1000),
    "modular-113": modular.ModularRecipe(p=113, steps=1000),
}
"""sparse: any two of 24 features in 20 dimensions; coactive: two couples of features that are
only ever active together; continuum: like sparse, for certificates over all activations at once;
modular-p: addition modulo p. Dictionaries have more latents than there are features: with as many,
some features stay without one, whatever the objective."""

QUICK_STEPS = 600
"""Steps of networks and dictionaries in quick mode: seconds, and a lower accuracy."""


@dataclass(frozen=True, eq=False)
class Built:
    """A trained task."""

    name: str
    network: Network
    domain: PairDomain | SparseDomain
    crosscoder: Crosscoder | None
    """Learned from the network's inputs; None for modular addition, whose features are
    frequencies."""
    accuracy: float
    """Of the network: over all pairs of a `PairDomain`, on 20,000 held-out points otherwise."""
    seconds: float
    """What building took."""
    seed: int


def build(task: str, seed: int = 0, quick: bool = False) -> Built:
    """Trains the network and the dictionary of a task; the same seed gives the same weights.

    `quick` takes a fifth of the steps or less. Raises CrossproofError for an unknown task.
    """
    if task not in TASKS:
        raise CrossproofError(
            f"There is no task {task!r}: choose one of {', '.join(TASKS)}.{nearest(task, TASKS)}"
        )
    began, plan = time.perf_counter(), TASKS[task]
    plan = shortened(plan) if quick else plan
    network, domain, learned = _train(plan, seed)
    score = accuracy(network, domain, seed)
    return Built(task, network, domain, learned, score, time.perf_counter() - began, seed)


def _train(
    plan: Plan | modular.ModularRecipe, seed: int
) -> tuple[Network, PairDomain | SparseDomain, Crosscoder | None]:
    if isinstance(plan, modular.ModularRecipe):
        return *modular.train(plan, seed), None
    domain = sparse.make_domain(plan.network, seed)
    network = sparse.train(plan.network, domain, seed)
    return network, domain, learn(network, domain, plan.dictionary, seed)


def shortened(plan: Plan | modular.ModularRecipe) -> Plan | modular.ModularRecipe:
    """The same task in `QUICK_STEPS` steps."""
    if isinstance(plan, modular.ModularRecipe):
        return replace(plan, steps=QUICK_STEPS)
    return Plan(
        replace(plan.network, steps=QUICK_STEPS), replace(plan.dictionary, steps=QUICK_STEPS)
    )


def accuracy(network: Network, domain: PairDomain | SparseDomain, seed: int) -> float:
    """Share of inputs labelled right: of all pairs, or of held-out points."""
    if isinstance(domain, PairDomain):
        x, labels = domain.inputs(), domain.labels()
    else:
        generator = torch.Generator().manual_seed(held_out_seed(seed))
        activations, labels = domain.sample(HELD_OUT, generator)
        x = domain.inputs(activations)
    return (network.logits(x).argmax(1) == labels).double().mean().item()


def held_out_seed(seed: int) -> int:
    """Of points that neither network nor dictionary has seen."""
    return 1_000_003 + seed
