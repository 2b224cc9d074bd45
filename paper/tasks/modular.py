"""Addition modulo p in one hidden ReLU layer, trained until every neuron is one frequency.

All p² pairs are trained on at once: what matters here is not generalisation but what the weights
look like. AdamW with weight decay alone finds a few frequencies and stops a little short of purity:
a ReLU network reads and writes some of their harmonics because that pays. The recipe's `purity`
can charge each neuron for the interaction between frequencies, in the form of the paper's penalty
with frequencies for features: Σ_f ‖amplitude at f‖ - max_f ‖amplitude at f‖. It is part of
training; no weight is edited afterwards. Certificates do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from crossproof.proof.bounds import Network, PairDomain


@dataclass(frozen=True)
class ModularRecipe:
    """How a modular-addition network is trained."""

    p: int
    steps: int
    neurons: int = 128
    width: int = 64
    """D, of the embeddings."""
    rank: int = 64
    """Width of the bottleneck behind the MLP, folded into W_out afterwards."""
    lr: float = 5e-3
    warmup: int = 50
    """Steps over which the learning rate rises."""
    decay: float = 0.3
    """Fraction of the steps, at the end, over which it falls to zero."""
    weight_decay: float = 1.0
    purity: float = 0.0
    """Strength of the penalty on what each neuron reads outside its frequency."""
    output_purity: float = 0.0
    """The same for what it writes."""
    purity_warmup: float = 0.3
    """Fraction of the steps over which both rise."""


@dataclass(frozen=True, eq=False)
class ModularWeights:
    """What is trained; the network is x -> relu(x W_in + b_in) W_mid W_unembed."""

    left: Float[Tensor, "p D"]
    right: Float[Tensor, "p D"]
    W_in: Float[Tensor, "D N"]
    b_in: Float[Tensor, " N"]
    W_mid: Float[Tensor, "N M"]
    W_unembed: Float[Tensor, "M p"]

    @classmethod
    def draw(cls, recipe: ModularRecipe, seed: int) -> ModularWeights:
        """Gaussian weights, small enough that features are learned rather than picked."""
        generator = torch.Generator().manual_seed(seed)
        p, D, N, M = recipe.p, recipe.width, recipe.neurons, recipe.rank

        def draw(rows: int, columns: int, scale: float) -> Tensor:
            return (scale * torch.randn(rows, columns, generator=generator)).requires_grad_()

        left, right = draw(p, D, D**-0.5), draw(p, D, D**-0.5)
        W_in, W_mid = draw(D, N, 0.5), draw(N, M, 0.5 * N**-0.5)
        return cls(
            left, right, W_in, torch.zeros(N, requires_grad=True), W_mid, draw(M, p, M**-0.5)
        )

    def tensors(self) -> list[Tensor]:
        """In the order of the fields."""
        return list(vars(self).values())

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the neurons read of a and of b, [p, N] each, and write, [N, p]."""
        return self.left @ self.W_in, self.right @ self.W_in, self.W_mid @ self.W_unembed

    @torch.no_grad()
    def fold(self) -> tuple[Network, PairDomain]:
        """The network and its domain in float64, folded weights rounded to float32 once."""
        left, right, W_in, b_in, W_mid, W_unembed = (t.double() for t in self.tensors())
        W_out = (W_mid @ W_unembed).float().double()
        skip = W_out.new_zeros(W_in.shape[0], W_out.shape[1])
        network = Network(W_in, b_in, W_out, W_out.new_zeros(W_out.shape[1]), skip)
        return network, PairDomain(left, right)


def loss(weights: ModularWeights, recipe: ModularRecipe, ramp: float) -> Tensor:
    """Cross-entropy over all pairs, and the penalties at a fraction of their strength."""
    first, second, out = weights.tables()
    number = torch.arange(recipe.p)
    labels = ((number[:, None] + number) % recipe.p).flatten()
    hidden = torch.relu(first[:, None] + (second + weights.b_in)).flatten(0, 1)
    total = cross_entropy(hidden @ out, labels)
    if recipe.purity:
        total = total + ramp * recipe.purity * spread(power(first) + power(second))
    if recipe.output_purity:
        total = total + ramp * recipe.output_purity * spread(power(out.T))
    return total


def power(table: Float[Tensor, "p N"]) -> Float[Tensor, "frequencies N"]:
    """Squared amplitude at frequencies 1 to p//2 of every column, constants left out."""
    spectrum = torch.fft.rfft(table, dim=0, norm="ortho")[1:]
    squared: Tensor = spectrum.real**2 + spectrum.imag**2
    return squared


def spread(power: Float[Tensor, "frequencies N"]) -> Tensor:
    """Mean over neurons of Σ_f - max_f of the amplitudes; 0 where each has one frequency."""
    amplitude = (power + 1e-12).sqrt()  # the root's slope is infinite at 0
    return (amplitude.sum(0) - amplitude.amax(0)).mean()


def train(
    recipe: ModularRecipe, seed: int, watch: Callable[[int, ModularWeights], None] | None = None
) -> tuple[Network, PairDomain]:
    """Trains on all pairs; `watch` sees the weights before every step and after the last."""
    weights = ModularWeights.draw(recipe, seed)
    adam = torch.optim.AdamW(
        weights.tensors(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    for step in range(recipe.steps):
        if watch is not None:
            watch(step, weights)
        adam.zero_grad()
        loss(weights, recipe, min(1.0, step / (recipe.purity_warmup * recipe.steps))).backward()
        fall = (recipe.steps - step) / (recipe.decay * recipe.steps)
        for group in adam.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup, fall)
        adam.step()
    if watch is not None:
        watch(recipe.steps, weights)
    return weights.fold()
