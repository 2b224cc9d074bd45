"""A view of one block's attention weights, in the space of its input hookpoint."""

# ruff: noqa: N815  (b_Q, b_K, b_V, b_O: the field's names)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary positions: coordinates i and i + P of a query or key turn by position · frequency i.

    P is the number of frequencies, in radians a token; coordinates from 2P on do not turn (NeoX's
    partial rotary). `scaling` multiplies the turning coordinates of queries and of keys (YaRN).
    """

    frequencies: Float[Tensor, " P"]
    scaling: float = 1.0

    @property
    def dimension(self) -> int:
        """How many coordinates turn."""
        return 2 * len(self.frequencies)

    def rotate(
        self, vectors: Float[Tensor, "*batch B E"], positions: Int[Tensor, " B"]
    ) -> Float[Tensor, "*batch B E"]:
        """The vectors of B tokens, turned to their positions."""
        # Angles are large: they keep their precision where the vectors have little.
        dtype = torch.promote_types(vectors.dtype, self.frequencies.dtype)
        angles = positions[:, None] * self.frequencies.to(vectors.device, dtype)
        cos, sin = ((self.scaling * part).to(vectors) for part in (angles.cos(), angles.sin()))
        left, right, rest = vectors.tensor_split((len(cos.T), self.dimension), dim=-1)
        turned = [left * cos - right * sin, right * cos + left * sin, rest]
        return torch.cat(turned, dim=-1)


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """The attention of one block, x being its input after the norm; E is the head dimension.

    Query head h scores key position k from q as scale · <x_q W_Q[h] + b_Q[h], x_k W_K[g] + b_K[g]>,
    both sides turned to their positions if there is `rotary`. Consecutive query heads share a key
    and value head g (grouped queries). A query sees itself and what is before it, at most `window`
    positions in all. Raises CrossproofError when the heads do not divide into the groups.
    """

    W_Q: Float[Tensor, "heads D E"]
    b_Q: Float[Tensor, "heads E"]
    W_K: Float[Tensor, "groups D E"]
    b_K: Float[Tensor, "groups E"]
    W_V: Float[Tensor, "groups D E"]
    b_V: Float[Tensor, "groups E"]
    W_O: Float[Tensor, "heads E D"]
    b_O: Float[Tensor, " D"]
    scale: float
    rotary: Rotary | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        if len(self.W_Q) % len(self.W_K):
            raise CrossproofError(
                f"{len(self.W_Q)} query heads cannot share {len(self.W_K)} key heads evenly; give "
                f"W_K and W_V a number of heads that divides W_Q's."
            )

    @property
    def n_heads(self) -> int:
        """How many query heads there are."""
        return self.W_Q.shape[0]

    @property
    def d_model(self) -> int:
        """D, the width of the input and of the output."""
        return self.W_Q.shape[1]

    @property
    def d_head(self) -> int:
        """E, the width of a head's queries, keys and values."""
        return self.W_Q.shape[2]

    def group(self, head: int) -> int:
        """The key and value head of a query head; raises CrossproofError if it is out of range."""
        if not 0 <= head < self.n_heads:
            raise CrossproofError(
                f"This attention has heads 0 to {self.n_heads - 1}; there is no head {head}."
            )
        return head * len(self.W_K) // self.n_heads

    def turn(
        self, vectors: Float[Tensor, "*batch B E"], positions: Int[Tensor, " B"]
    ) -> Float[Tensor, "*batch B E"]:
        """Queries or keys of B tokens, turned to their positions; themselves without rotary."""
        return vectors if self.rotary is None else self.rotary.rotate(vectors, positions)

    def scores(
        self, x: Float[Tensor, "*batch B D"], positions: Int[Tensor, " given"] | None = None
    ) -> Float[Tensor, "*batch heads B B"]:
        """The model's scores before mask and softmax: [..., query, key].

        `positions` of the B tokens are 0 to B - 1 unless given; only their differences matter.
        """
        places = token_positions(x.shape[-2], positions, x.device)
        shared = self.n_heads // len(self.W_K)
        q = self.turn(_heads(x, self.W_Q, self.b_Q), places)
        k = self.turn(_heads(x, self.W_K, self.b_K), places).repeat_interleave(shared, dim=-3)
        return self.scale * (q @ k.mT)

    def mask(self, positions: Int[Tensor, " B"]) -> Bool[Tensor, "B B"]:
        """Whether the query (row) sees the key (column)."""
        offset = positions[:, None] - positions
        seen = offset >= 0
        return seen if self.window is None else seen & (offset < self.window)

    def pattern(self, scores: Float[Tensor, "*batch B B"]) -> Float[Tensor, "*batch B B"]:
        """The attention probabilities: masked softmax of the scores of positions 0 to B - 1."""
        mask = self.mask(torch.arange(scores.shape[-1], device=scores.device))
        return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)

    def output(
        self, x: Float[Tensor, "*batch B D"], pattern: Float[Tensor, "*batch heads B B"]
    ) -> Float[Tensor, "*batch B D"]:
        """What the attention adds to the residual stream under a given pattern, bias included."""
        shared = self.n_heads // len(self.W_V)
        values = _heads(x, self.W_V, self.b_V).repeat_interleave(shared, dim=-3)
        return ((pattern @ values) @ self.W_O).sum(dim=-3) + self.b_O

    def __call__(self, x: Float[Tensor, "*batch B D"]) -> Float[Tensor, "*batch B D"]:
        """The attention's output for whole sequences."""
        return self.output(x, self.pattern(self.scores(x)))

    def ov(self, head: int) -> Float[Tensor, "D D"]:
        """W_V W_O: what a unit of the key's input adds to the output per unit of attention.

        Raises CrossproofError for a head that is not there.
        """
        return self.W_V[self.group(head)] @ self.W_O[head]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> AttentionWeights:
        """The same weights on another device or in another dtype."""
        names = ("W_Q", "b_Q", "W_K", "b_K", "W_V", "b_V", "W_O", "b_O")
        changed: dict[str, Any] = {
            name: getattr(self, name).to(device=device, dtype=dtype) for name in names
        }
        return replace(self, **changed)


def token_positions(
    tokens: int, positions: Int[Tensor, " given"] | None, device: torch.device
) -> Int[Tensor, " B"]:
    """`positions`, or 0 to tokens - 1; raises CrossproofError unless there is one a token."""
    if positions is None:
        return torch.arange(tokens, device=device)
    if len(positions) != tokens:
        raise CrossproofError(
            f"There are {tokens} tokens but {len(positions)} positions; give one a token."
        )
    return positions.to(device)


def _heads(
    x: Float[Tensor, "*batch B D"], weights: Float[Tensor, "n D E"], bias: Float[Tensor, "n E"]
) -> Float[Tensor, "*batch n B E"]:
    return x.unsqueeze(-3) @ weights + bias[:, None]
