"""Which frequency each neuron of a modular-addition network lives on, read from its weights.

A neuron's pre-activation is left[a]·w_n + right[b]·w_n + b_n: two functions on Z_p, with a discrete
Fourier transform each. Blocks of frequencies play the part of features (THEORY T2.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.proof.bounds import Network, PairDomain
from paper.toys.fourier import power


@dataclass(frozen=True, eq=False)
class Frequencies:
    """The owner of every neuron, and how much of the neuron it leaves unexplained."""

    owner: Int[Tensor, " N"]
    """1 to p//2: the frequency with most power in what the neuron reads of both summands."""
    impurity: Float[Tensor, " N"]
    """Share of the power it reads outside its owner (means over Z_p, which act as biases, apart);
    0 for a neuron that reads nothing."""
    output_impurity: Float[Tensor, " N"]
    """Share of the power of its output row (over classes) outside the same frequency."""
    weight: Float[Tensor, " N"]
    """Amplitude read times amplitude written, over the largest such product: how much a neuron
    can matter. Weight decay leaves neurons at 0."""

    @property
    def used(self) -> list[int]:
        """The frequencies that own a neuron of weight above 1%."""
        return sorted({int(k) for k in self.owner[self.weight > 0.01]})


def find_frequencies(network: Network, domain: PairDomain) -> Frequencies:
    """Owners and impurities of all neurons, from weights alone: O(D p N)."""
    read = power(domain.left @ network.W_in) + power(domain.right @ network.W_in)
    written = power(network.W_out.T)
    owner = read.argmax(0)
    weight = (read.sum(0) * written.sum(0)).sqrt()
    largest = weight.max().clamp_min(torch.finfo(weight.dtype).tiny)
    return Frequencies(owner + 1, _outside(read, owner), _outside(written, owner), weight / largest)


def _outside(power: Float[Tensor, "frequencies N"], owner: Int[Tensor, " N"]) -> Tensor:
    rest = power.scatter(0, owner[None], 0.0).sum(0)  # not total - own: nothing cancels
    own = power.gather(0, owner[None])[0]
    return rest / (rest + own).clamp_min(torch.finfo(rest.dtype).tiny)
