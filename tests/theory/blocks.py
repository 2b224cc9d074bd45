"""Groups of latents as the units that interact (THEORY T2.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary


@dataclass(frozen=True, eq=False)
class Blocks:
    """A view and latents whose every latent is one block at one token.

    All bounds of this package, and the measures of `interactions`, take `view` and `latents` as
    they take ordinary ones. Entry j of `latents` is block `block[j]`, has the value 1 and the row
    G[j] = p_nB, the sum of the contributions of the block's latents to each neuron.
    """

    view: MLPDictionary
    latents: SparseLatents
    block: Int[Tensor, " entries"]


def as_blocks(view: MLPDictionary, latents: SparseLatents, partition: Int[Tensor, " H"]) -> Blocks:
    """Sum contributions within blocks: `partition[h]` is the block of latent h.

    Takes [entries, N] memory (entries: pairs of a token and a block active there), so feed long
    data by `latents.rows`. Raises CrossproofError if `partition` does not name a block for every
    latent.
    """
    if len(partition) != latents.n_latents or bool((partition < 0).any()):
        raise CrossproofError(
            f"The partition has {len(partition)} entries for {latents.n_latents} latents; give "
            "every latent the number of its block, 0 or more."
        )
    width = int(partition.max()) + 1 if len(partition) else 1
    keys = latents.token_index * width + partition[latents.indices]
    pairs, entry = keys.unique(return_inverse=True)
    counts = torch.bincount(pairs // width, minlength=latents.n_tokens)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    names = torch.arange(len(pairs), device=pairs.device)
    units = SparseLatents(offsets, names, view.G.new_ones(len(pairs)), len(pairs))

    def summed(G: Tensor) -> Tensor:
        rows = G.new_zeros(len(pairs), G.shape[1])
        return rows.index_add(0, entry, latents.values[:, None] * G[latents.indices])

    gate = None if view.G_gate is None else summed(view.G_gate)
    return Blocks(replace(view, G=summed(view.G), G_gate=gate), units, pairs % width)
