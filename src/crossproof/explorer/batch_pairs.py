"""The pairs of a batch, measured among its own latents alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.crosscoder.latents import SparseLatents
from crossproof.explorer.strongest import Ints
from crossproof.interactions.measuring import TokenPairs, token_pairs
from crossproof.interactions.stream import TokenMixture, TokenView
from crossproof.interactions.views import MLPView, read_by

Used = Int[Tensor, " U"]


@dataclass(frozen=True, eq=False)
class BatchPairs:
    """U latents are active in a batch; in `pairs` they have the numbers 0 to U - 1."""

    pairs: TokenPairs
    latents: Ints
    """[U] their numbers in the dictionary, ascending."""

    @classmethod
    def of(cls, batch: EncodedBatch, views: Mapping[int, MLPView]) -> BatchPairs:
        """What `token_pairs` gives of the batch, at a cost that does not grow with the dictionary.

        Raises as `token_pairs`, of decoder vectors in use.
        """
        used = batch.latents.indices.unique()
        seen = {block: _narrowed(view, used) for block, view in read_by(views, batch).items()}
        return cls(token_pairs(_renumbered(batch.latents, used), seen), used.cpu().numpy())


def _narrowed(seen: TokenView | TokenMixture, used: Used) -> TokenView | TokenMixture:
    if isinstance(seen, TokenView):
        return _narrowed_view(seen, used)
    experts = tuple(replace(e, view=_narrowed_view(e.view, used)) for e in seen.experts)
    return replace(seen, experts=experts)


def _narrowed_view(view: TokenView, used: Used) -> TokenView:
    dictionary = view.dictionary
    gate = None if dictionary.G_gate is None else dictionary.G_gate[used]
    rows = replace(dictionary, G=dictionary.G[used], G_gate=gate)
    return replace(view, dictionary=rows, latents=_renumbered(view.latents, used))


def _renumbered(latents: SparseLatents, used: Used) -> SparseLatents:
    indices = torch.searchsorted(used, latents.indices)
    return SparseLatents(latents.offsets, indices, latents.values, len(used))
