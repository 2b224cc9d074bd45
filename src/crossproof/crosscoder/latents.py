"""`SparseLatents`: which latents are active at each token, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SparseLatents:
    """The active latents of B tokens, CSR-like: token b owns `offsets[b]:offsets[b+1]`.

    `indices` (int64) ascend within a token; `values` are activations, in the units of the
    crosscoder that made them. Every function of `interactions` and `proof` takes this type,
    whoever trained the dictionary.
    """

    offsets: Int[Tensor, " bounds"]
    indices: Int[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    n_latents: int

    @classmethod
    def from_dense(cls, activations: Float[Tensor, "B H"]) -> SparseLatents:
        """The non-zero entries of a dense [B, H] matrix."""
        active = activations != 0
        offsets = torch.nn.functional.pad(active.sum(1).cumsum(0), (1, 0))
        indices = active.nonzero()[:, 1]
        return cls(offsets, indices, activations[active], activations.shape[1])

    @classmethod
    def from_rows(
        cls, indices: Int[Tensor, "B K"], values: Float[Tensor, "B K"], n_latents: int
    ) -> SparseLatents:
        """K entries a token, sorted here; entries whose value is zero are kept."""
        ordered, order = indices.sort(dim=1)
        tokens, width = indices.shape
        offsets = torch.arange(tokens + 1, device=indices.device) * width
        return cls(offsets, ordered.reshape(-1), values.gather(1, order).reshape(-1), n_latents)

    @property
    def n_tokens(self) -> int:
        """B."""
        return len(self.offsets) - 1

    @cached_property
    def token_index(self) -> Int[Tensor, " nnz"]:
        """The token of each entry."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.indices))

    @cached_property
    def transposed(self) -> tuple[Int[Tensor, " bounds"], Int[Tensor, " nnz"], Int[Tensor, " nnz"]]:
        """The same entries by latent: offsets [H+1], tokens [nnz] and the permutation [nnz]."""
        order = torch.argsort(self.indices, stable=True)
        latents = torch.arange(self.n_latents + 1, device=order.device)
        offsets = torch.searchsorted(self.indices[order], latents)
        return offsets, self.token_index[order], order

    def l0(self) -> float:
        """Mean number of active latents a token."""
        return self.mean_active().item()

    def mean_active(self) -> Float[Tensor, ""]:
        """`l0` as a tensor (float64), for which nobody waits."""
        return (self.values != 0).sum().double() / max(self.n_tokens, 1)

    def dense(self) -> Float[Tensor, "B H"]:
        """Activations as a dense matrix."""
        out = self.values.new_zeros(self.n_tokens, self.n_latents)
        return out.index_put((self.token_index, self.indices), self.values)

    def with_values(self, values: Float[Tensor, " nnz"]) -> SparseLatents:
        """The same entries with other values."""
        same = replace(self, values=values)
        for name in ("token_index", "transposed"):  # cached structure does not depend on values
            if name in self.__dict__:
                same.__dict__[name] = self.__dict__[name]
        return same

    def to(self, dtype: torch.dtype) -> SparseLatents:
        """The same entries in another dtype."""
        return self if self.values.dtype == dtype else self.with_values(self.values.to(dtype))

    def keep(self, mask: Bool[Tensor, " nnz"]) -> SparseLatents:
        """Only the entries where `mask` is true."""
        counts = torch.zeros(self.n_tokens, dtype=torch.int64, device=mask.device)
        counts.index_add_(0, self.token_index, mask.to(torch.int64))
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        entries = mask.nonzero()[:, 0]
        return SparseLatents(offsets, self.indices[entries], self.values[entries], self.n_latents)

    def take(self, tokens: Int[Tensor, " T"]) -> SparseLatents:
        """Some of the tokens, in the order given."""
        counts = self.offsets.diff()[tokens]
        entries = ranges(self.offsets[tokens], counts)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        return SparseLatents(offsets, self.indices[entries], self.values[entries], self.n_latents)

    def rows(self, start: int, stop: int) -> SparseLatents:
        """The tokens `start:stop`."""
        offsets = self.offsets[start : stop + 1]
        if offsets.is_meta:  # without values: as if all tokens had equally many
            each = len(self.indices) // max(self.n_tokens, 1)
            entries = slice(start * each, stop * each)
        else:
            entries = slice(int(offsets[0]), int(offsets[-1]))
        return SparseLatents(
            offsets - offsets[0], self.indices[entries], self.values[entries], self.n_latents
        )


def ranges(starts: Int[Tensor, " T"], counts: Int[Tensor, " T"]) -> Int[Tensor, " total"]:
    """start, start + 1, ... of every range, one after another."""
    before = counts.cumsum(0) - counts
    return torch.repeat_interleave(starts - before, counts) + torch.arange(
        int(counts.sum()), device=starts.device
    )
