"""Sparse features in few dimensions, a linear rule to label them by, a network that learns it.

The network never sees activations: it reads Σ_h a_h d_h, and where there are more features than
dimensions (superposition) no linear map recovers them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from crossproof.proof.bounds import Network, SparseDomain

LEAST_CLASS = 0.05
"""Share of the points that every class must have at least."""


@dataclass(frozen=True)
class SparseRecipe:
    """The domain, and how the network is trained on it."""

    features: int = 24
    width: int = 20
    """D; below `features` there is superposition."""
    classes: int = 8
    neurons: int = 48
    active: Literal["pairs", "partners"] = "pairs"
    """pairs: any two features; partners: any two of the couples (2i, 2i+1), always as couples."""
    low: float = 0.25
    """Activations are uniform in [low, 1], independently."""
    steps: int = 4000
    batch: int = 1024
    lr: float = 3e-3
    decay: float = 0.5
    """Fraction of the steps, at the end, over which the learning rate falls to zero."""
    weight_decay: float = 0.3
    readouts: int = 200
    """Random readouts to choose the clearest from."""


def active_sets(recipe: SparseRecipe) -> Int[Tensor, "G K"]:
    """Every set of features that is active together."""
    if recipe.active == "pairs":
        return torch.tensor(list(combinations(range(recipe.features), 2)))
    couples = combinations(range(recipe.features // 2), 2)
    return torch.tensor([[2 * i, 2 * i + 1, 2 * j, 2 * j + 1] for i, j in couples])


def spread_vectors(count: int, width: int, generator: torch.Generator) -> Float[Tensor, "F D"]:
    """Unit vectors that overlap little: random ones, pushed apart (sum of cosines⁴)."""
    decoder = torch.randn(count, width, generator=generator).requires_grad_()
    adam = torch.optim.Adam([decoder], lr=1e-2)
    for _ in range(300):
        unit = normalize(decoder)
        overlap = (unit @ unit.T - torch.eye(count)).pow(4).sum()
        adam.zero_grad()
        overlap.backward()
        adam.step()
    return normalize(decoder.detach())


def make_domain(recipe: SparseRecipe, seed: int) -> SparseDomain:
    """Decoder vectors, ranges and active sets, labelled by the clearest of some random readouts."""
    generator = torch.Generator().manual_seed(seed)
    decoder = spread_vectors(recipe.features, recipe.width, generator).double()
    ones = torch.ones(recipe.features, dtype=torch.float64)
    empty = torch.zeros(recipe.features, recipe.classes, dtype=torch.float64)
    domain = SparseDomain(
        decoder, torch.zeros_like(decoder[0]), recipe.low * ones, ones, active_sets(recipe), empty
    )
    sample, _ = domain.sample(1000, generator)
    candidates = [_readout(recipe, generator) for _ in range(recipe.readouts)]
    best = max(candidates, key=lambda readout: clarity(sample @ readout))
    return replace(domain, readout=best)


def _readout(recipe: SparseRecipe, generator: torch.Generator) -> Float[Tensor, "F V"]:
    return torch.randn(recipe.features, recipe.classes, generator=generator).double()


def clarity(scores: Float[Tensor, "T V"]) -> float:
    """The margin that 80% of the points exceed, in standard deviations of a score.

    Negative where a class has next to no points.
    """
    first, second = scores.topk(2, dim=1).values.unbind(1)
    shares = scores.argmax(1).bincount(minlength=scores.shape[1]) / len(scores)
    if shares.min() < LEAST_CLASS:
        return -1.0
    return ((first - second).quantile(0.2) / scores.std()).item()


def train(recipe: SparseRecipe, domain: SparseDomain, seed: int) -> Network:
    """A network trained by AdamW on points drawn afresh at every step."""
    generator = torch.Generator().manual_seed(seed)
    D, N, V = recipe.width, recipe.neurons, recipe.classes
    W_in = torch.randn(D, N, generator=generator) * (2 / D) ** 0.5
    W_out = torch.randn(N, V, generator=generator) * N**-0.5
    network = Network(W_in, torch.zeros(N), W_out, torch.zeros(V), torch.zeros(D, V))
    weights = [tensor.requires_grad_() for tensor in network.tensors().values()]
    adam = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=recipe.weight_decay)
    for step in range(recipe.steps):
        activations, labels = domain.sample(recipe.batch, generator)
        logits = network.logits(domain.inputs(activations).float())
        adam.zero_grad()
        cross_entropy(logits, labels).backward()
        fall = (recipe.steps - step) / (recipe.decay * recipe.steps)
        for group in adam.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 100, fall)
        adam.step()
    return Network(**{name: tensor.detach() for name, tensor in network.tensors().items()}).double()
