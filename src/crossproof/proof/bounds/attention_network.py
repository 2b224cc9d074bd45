"""A one-layer attention-only transformer, and all sequences of its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.proof.bounds.network import _Hashed


@dataclass(frozen=True, eq=False)
class AttentionNetwork(_Hashed):
    """logits = (x_C + softmax(x_C W_Q W_Kᵀ xᵀ) x W_V W_O) W_U at the last of C positions.

    x_p = W_E[token] + W_pos[p]. The scale of the scores, 1/√A, is part of W_Q; there are no biases
    and no norms. Raises CrossproofError if a weight is NaN or infinite.
    """

    W_E: Float[Tensor, "V D"]
    W_pos: Float[Tensor, "C D"]
    W_Q: Float[Tensor, "D A"]
    W_K: Float[Tensor, "D A"]
    W_V: Float[Tensor, "D A"]
    W_O: Float[Tensor, "A D"]
    W_U: Float[Tensor, "D V"]

    def __post_init__(self) -> None:
        self._check_finite("network")

    def streams(self) -> Float[Tensor, "C V D"]:
        """What is read of every token at every position."""
        return self.W_E + self.W_pos[:, None]

    def logits(self, tokens: Int[Tensor, "B C"]) -> Float[Tensor, "B V"]:
        """The logits at the last position of B sequences."""
        x = self.W_E[tokens] + self.W_pos
        query = x[:, -1]
        scores = torch.einsum("ba,bca->bc", query @ self.W_Q, x @ self.W_K)
        read = torch.einsum("bc,bcd->bd", scores.softmax(dim=1), x @ self.W_V @ self.W_O)
        return (query + read) @ self.W_U

    def double(self) -> AttentionNetwork:
        """The same weights in float64."""
        return replace(self, **{name: t.double() for name, t in self.tensors().items()})

    @property
    def n_classes(self) -> int:
        """V, the number of tokens, which are the classes."""
        return len(self.W_E)


@dataclass(frozen=True, eq=False)
class SequenceDomain(_Hashed):
    """All sequences of tokens, equally likely, labelled with the token that is last in `order`.

    `order` names every token once, the lowest first: 0, 1, 2, ... makes the label the largest.

    Raises CrossproofError if it does not.
    """

    order: Int[Tensor, " V"]

    def __post_init__(self) -> None:
        if not torch.equal(self.order.sort().values, torch.arange(len(self.order))):
            raise CrossproofError(
                f"An order of {len(self.order)} tokens must name each of them once."
            )

    def labels(self, tokens: Int[Tensor, "B C"]) -> Int[Tensor, " B"]:
        """The label of every sequence."""
        labels: Tensor = self.order[self.order.argsort()[tokens].amax(dim=1)]
        return labels
