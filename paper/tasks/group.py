"""Multiplication in finite groups by one hidden ReLU layer (the task of arXiv 2410.07476).

All pairs are trained on at once, as in `modular`, with weight decay, and `purity` if asked for:
there each neuron has one frequency, here one isotypic component (an irrep's matrix coefficients).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from crossproof.proof.bounds import GroupDomain, Network
from crossproof.proof.certificate import components
from paper.tasks.modular import ModularRecipe, ModularWeights, spread


def symmetric(n: int, even: bool = False) -> Int[Tensor, "p p"]:
    """The table of the symmetric group on n letters, or of the alternating group in it."""
    elements = [p for p in itertools.permutations(range(n)) if not even or _sign(p) > 0]
    number = {element: i for i, element in enumerate(elements)}
    return torch.tensor([[number[tuple(a[i] for i in b)] for b in elements] for a in elements])


def _sign(permutation: tuple[int, ...]) -> float:
    return float(np.linalg.det(np.eye(len(permutation))[list(permutation)]))


GROUPS: dict[str, Callable[[], Int[Tensor, "p p"]]] = {
    "S4": lambda: symmetric(4),
    "A5": lambda: symmetric(5, even=True),
    "S5": lambda: symmetric(5),
}


def powers(
    table: Float[Tensor, "p N"], bases: list[Float[Tensor, "dim p"]]
) -> Float[Tensor, "components N"]:
    """Squared amplitude of every column in each component."""
    return torch.stack([(basis @ table).square().sum(dim=0) for basis in bases])


def train(
    table: Int[Tensor, "p p"],
    recipe: ModularRecipe,
    seed: int,
    watch: Callable[[int, float], None] | None = None,
) -> tuple[Network, GroupDomain]:
    """Trains on all pairs; the network and its domain in float64."""
    weights, labels = ModularWeights.draw(recipe, seed), table.flatten()
    bases = [torch.from_numpy(b.copy()).float() for b in components(table.numpy())]
    bases = [basis for basis in bases if basis.sum().abs() < 1e-3]  # constants left out
    adam = torch.optim.AdamW(
        weights.tensors(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    for step in range(recipe.steps):
        fall = (recipe.steps - step) / (recipe.decay * recipe.steps)
        for group in adam.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup, fall)
        first, second, out = weights.tables()
        hidden = torch.relu(first[:, None] + (second + weights.b_in)).flatten(0, 1)
        loss = cross_entropy(hidden @ out, labels)
        ramp = min(1.0, step / (recipe.purity_warmup * recipe.steps))
        if recipe.purity:
            read = powers(first, bases) + powers(second, bases)
            loss = loss + ramp * recipe.purity * (spread(read) + spread(powers(out.T, bases)))
        adam.zero_grad()
        loss.backward()
        adam.step()
        if watch is not None:
            watch(step, loss.item())
    network, pairs = weights.fold()
    return network, GroupDomain(pairs.left, pairs.right, table)
