"""Synthetic activations and MLPs in which it is known which features interact.

More features than dimensions, and three kinds of planted pairs, as many of each:

* meeting: both features reach neurons in the part of their range that bends. Their joint effect is
  not the sum of each one's.
* linear: the same neurons with the same weights, with biases that keep them where the activation
  is a straight line (of a gated MLP: with the gate open). They share neurons and add up.
* apart: no neuron reads both, and they fire together. They are co-active and add up.

The other features have no partner. Every feature has a neuron of its own besides, which bends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from crossproof.lm import Activation, MLPWeights
from paper.tasks.sparse import spread_vectors

Kind = Literal["meeting", "linear", "apart"]
KINDS: tuple[Kind, ...] = ("meeting", "linear", "apart")
MLPKind = Literal["relu", "gelu", "gated"]
MLPS: tuple[MLPKind, ...] = ("relu", "gelu", "gated")

SIGNS = ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0))
"""How a pair's three neurons read its two features: both, one against the other, both inverted."""
BENDS = (-1.0, 0.0, 1.0)
"""Biases of the three neurons where they bend: a conjunction, a comparison, a saturation."""
STRAIGHT = 7.0
"""Bias at which they do not: two activations, each at most 1.5, leave them above 4."""
OWN_BIAS = -0.3
"""Of a feature's own neuron: what other features write there by superposition stays below it."""


@dataclass(frozen=True)
class WorldRecipe:
    """How many features there are, and when they fire."""

    pairs: int = 12
    """Of each kind."""
    alone: int = 24
    """Features without a partner."""
    width: int = 48
    """D; below the number of features there is superposition."""
    rate: float = 0.04
    """How often each feature fires."""
    together: tuple[float, float, float] = (0.02, 0.02, 0.02)
    """How often both features of a pair fire because they are one: meeting, linear, apart."""
    shared: float = 0.0
    """Cosine of the decoder vectors of linear pairs and of those apart."""
    noise: float = 0.05
    """Standard deviation, in each dimension, of what is added to activations."""

    @property
    def features(self) -> int:
        """F."""
        return 2 * len(KINDS) * self.pairs + self.alone


SCENARIOS: dict[str, WorldRecipe] = {
    "even": WorldRecipe(),
    "confounded": WorldRecipe(together=(0.006, 0.036, 0.036)),
    "shared": WorldRecipe(shared=0.6),
}
"""even: pairs of all kinds fire together equally often. confounded: those that add up do so six
times as often as those that meet. shared: decoder vectors of pairs that add up point alike."""


@dataclass(frozen=True, eq=False)
class World:
    """Features, which of them are pairs, and the directions in which neurons read them."""

    recipe: WorldRecipe
    decoder: Float[Tensor, "F D"]
    """Unit vectors."""
    readers: Float[Tensor, "F D"]
    """Directions that give 1 on their own feature and 0 on its partner."""
    planted: dict[Kind, Int[Tensor, "pairs 2"]]
    """Disjoint pairs of features, of each kind."""

    @classmethod
    def build(cls, recipe: WorldRecipe, seed: int) -> World:
        """The same recipe and seed give the same world."""
        generator = torch.Generator().manual_seed(seed)
        decoder = spread_vectors(recipe.features, recipe.width, generator)
        order = torch.randperm(recipe.features, generator=generator)
        paired = order[: 2 * len(KINDS) * recipe.pairs].view(len(KINDS), recipe.pairs, 2)
        planted = {kind: paired[at].sort(1).values for at, kind in enumerate(KINDS)}
        for kind in ("linear", "apart"):
            _turn_together(decoder, planted[kind], recipe.shared)
        readers = decoder.clone()
        for pairs in planted.values():
            _read_apart(readers, decoder, pairs)
        return cls(recipe, decoder, readers, planted)

    def sample(self, tokens: int, seed: int) -> tuple[Float[Tensor, "B F"], Float[Tensor, "B D"]]:
        """Features' activations, uniform in [0.5, 1.5] where they fire, and noisy inputs."""
        generator, recipe = torch.Generator().manual_seed(seed), self.recipe
        single = torch.full((recipe.features,), recipe.rate)
        fires = torch.zeros(tokens, recipe.features, dtype=torch.bool)
        for kind, often in zip(KINDS, recipe.together, strict=True):
            pairs = self.planted[kind]
            both = torch.rand(tokens, len(pairs), generator=generator) < often
            fires[:, pairs] = both[..., None].expand(-1, -1, 2)
            single[pairs] -= often
        fires |= torch.rand(tokens, recipe.features, generator=generator) < single
        activations = fires * (0.5 + torch.rand(fires.shape, generator=generator))
        noise = recipe.noise * torch.randn(tokens, recipe.width, generator=generator)
        return activations, activations @ self.decoder + noise

    def mlp(self, kind: MLPKind, seed: int) -> MLPWeights:
        """The MLP that the pairs are planted in; every neuron writes a random unit vector."""
        read, bias, straight = self._neurons()
        generator = torch.Generator().manual_seed(seed)
        written = normalize(torch.randn(len(bias), self.recipe.width, generator=generator))
        ends = written, torch.zeros(self.recipe.width)
        if kind != "gated":
            activation = Activation.RELU if kind == "relu" else Activation.GELU
            return MLPWeights(read.T, bias, *ends, activation)
        # Neurons that bend do so through the gate; the straight ones have it open.
        open_gate = straight[:, None]
        gate = torch.where(open_gate, 0.0, 4 * read)
        gate_bias = torch.where(straight, STRAIGHT, 4 * bias)
        linear = torch.where(open_gate, read, 0.0)
        linear_bias = torch.where(straight, 0.0, 1.0)
        # One of the three neurons where a pair meets multiplies: a gate of one, the other's value.
        product = slice(self.recipe.features + 1, self.recipe.features + 3 * self.recipe.pairs, 3)
        first, second = self.planted["meeting"].T
        gate[product], gate_bias[product] = 4 * self.readers[first], 0.0
        linear[product], linear_bias[product] = self.readers[second], 0.0
        return MLPWeights(linear.T, linear_bias, *ends, Activation.SILU, gate.T, gate_bias)

    def _neurons(self) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"], Tensor]:
        """What neurons read, their biases, and whether they are kept from bending."""
        read, bias, straight = [*self.readers], [OWN_BIAS] * len(self.readers), []
        straight += [False] * len(bias)
        for kind in ("meeting", "linear"):
            for first, second in self.planted[kind].tolist():
                for (one, other), bend in zip(SIGNS, BENDS, strict=True):
                    read.append(one * self.readers[first] + other * self.readers[second])
                    bias.append(bend if kind == "meeting" else STRAIGHT)
                    straight.append(kind == "linear")
        return torch.stack(read), torch.tensor(bias), torch.tensor(straight)


def _turn_together(
    decoder: Float[Tensor, "F D"], pairs: Int[Tensor, "pairs 2"], cosine: float
) -> None:
    """Turns the second vector of each pair towards the first, to this cosine."""
    if cosine:
        first, second = decoder[pairs].unbind(1)
        across = normalize(second - (first * second).sum(1, keepdim=True) * first)
        decoder[pairs[:, 1]] = cosine * first + (1 - cosine**2) ** 0.5 * across


def _read_apart(
    readers: Float[Tensor, "F D"], decoder: Float[Tensor, "F D"], pairs: Int[Tensor, "pairs 2"]
) -> None:
    """Reads each feature of a pair beside the other's direction."""
    for own, other in ((0, 1), (1, 0)):
        vector, partner = decoder[pairs[:, own]], decoder[pairs[:, other]]
        beside = vector - (vector * partner).sum(1, keepdim=True) * partner
        readers[pairs[:, own]] = beside / (beside * vector).sum(1, keepdim=True)
