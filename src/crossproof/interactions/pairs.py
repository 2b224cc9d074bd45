"""Chosen pairs of latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.errors import CrossproofError


@dataclass(frozen=True, eq=False)
class Pairs:
    """M unordered pairs of different latents, among H; a pair may be listed more than once.

    Raises CrossproofError for a latent outside 0 to H - 1 and for a latent paired with itself.
    """

    latents: Int[Tensor, "M 2"]
    n_latents: int

    def __post_init__(self) -> None:
        outside = (self.latents < 0) | (self.latents >= self.n_latents)
        if outside.any():
            raise CrossproofError(
                f"Latent {int(self.latents[outside][0])} of the chosen pairs does not exist; this "
                f"dictionary has latents 0 to {self.n_latents - 1}."
            )
        alone = self.latents[:, 0] == self.latents[:, 1]
        if alone.any():
            raise CrossproofError(
                f"Latent {int(self.latents[alone][0, 0])} is paired with itself; a pair needs two "
                f"different latents."
            )

    @cached_property
    def _distinct(self) -> tuple[Int[Tensor, " U"], Int[Tensor, " M"]]:
        keys, inverse = self._keys(*self.latents.unbind(1)).unique(return_inverse=True)
        return keys, inverse

    def _keys(self, one: Int[Tensor, " X"], other: Int[Tensor, " X"]) -> Int[Tensor, " X"]:
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        return low.to(torch.int64) * self.n_latents + high

    @property
    def n_distinct(self) -> int:
        """U, the number of different pairs."""
        return len(self._distinct[0])

    def find(self, one: Int[Tensor, " X"], other: Int[Tensor, " X"]) -> Int[Tensor, " X"]:
        """The row of each pair (one, other), in either order, among the U; -1 if not chosen."""
        known, wanted = self._distinct[0], self._keys(one, other)
        if len(known) == 0:
            return torch.full_like(wanted, -1)
        row = torch.searchsorted(known, wanted).clamp_max(len(known) - 1)
        return torch.where(known[row] == wanted, row, -1)

    def spread(self, values: Tensor) -> Tensor:
        """Values [U] of the different pairs, as [M] in the order in which pairs were listed."""
        return values[self._distinct[1]]
