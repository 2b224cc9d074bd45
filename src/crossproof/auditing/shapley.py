"""Shapley–Taylor interactions of a token's strongest latents, for all tokens of a batch at once.

`interactions.shapley_taylor` treats one token with any number of players. Here all tokens have the
same few players, so the indices of order 2 are one matrix, `pair_shares`, times the values of all
coalitions. A latent's strength is what it could do at most on its own, Σ_n ‖o_n‖ |p_nh|; the
others are left out of every coalition, so that this restricts the game and does not estimate it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.shapley import all_coalitions, pair_shares

PLAYERS = 6
"""Latents a token that play by default: 64 coalitions a block."""

_NUMBERS = 2**20
"""Numbers in the largest temporary: 4 MiB, which stays in the cache."""


def strongest(
    latents: SparseLatents, views: Mapping[int, MLPDictionary], players: int = PLAYERS
) -> tuple[Int[Tensor, "B m"], Float[Tensor, "B m"]]:
    """The strongest latents of each token (all blocks together) in ascending order, and their
    activations; where fewer are active, latent -1 with activation 0."""
    strength: Tensor = latents.values.new_zeros(latents.n_latents)
    for view in views.values():
        paths = view.G.abs() if view.G_gate is None else view.G.abs() + view.G_gate.abs()
        strength = strength + paths @ view.output_norms
    width = max(players, int(latents.offsets.diff().max()) if latents.n_tokens else 0)
    slot = torch.arange(len(latents.indices)) - latents.offsets[latents.token_index]
    shape = latents.n_tokens, width
    score = latents.values.new_full(shape, -1.0)
    score[latents.token_index, slot] = latents.values.abs() * strength[latents.indices]
    latent = torch.full(shape, -1, dtype=torch.int64)
    latent[latents.token_index, slot] = latents.indices
    value = latents.values.new_zeros(shape)
    value[latents.token_index, slot] = latents.values
    chosen = score.topk(players, dim=1).indices
    ordered, order = latent.gather(1, chosen).sort(1)
    return ordered, value.gather(1, chosen).gather(1, order)


def shapley_pairs(
    latent: Int[Tensor, "B m"],
    value: Float[Tensor, "B m"],
    views: Mapping[int, MLPDictionary],
) -> Float[Tensor, "B pairs"]:
    """‖φ_ij‖ of the MLP's output, summed over blocks, for each two players of each token."""
    coalitions = all_coalitions(latent.shape[1])
    shares, members = pair_shares(coalitions).T.to(value), coalitions.to(value)
    out = value.new_zeros(len(latent), len(shares))
    for view in views.values():
        step = max(1, _NUMBERS // (len(coalitions) * view.mlp.n_neurons))
        for start in range(0, len(latent), step):
            part = slice(start, start + step)
            rows, scale = latent[part].clamp_min(0), value[part, :, None]
            paths = [view.G] if view.G_gate is None else [view.G, view.G_gate]
            sums = [(members @ (scale * G[rows])).flatten(0, 1) for G in paths]
            neurons = view.neurons(*sums).view(len(rows), len(members), -1)
            out[part] += ((shares @ neurons) @ view.mlp.W_out).norm(dim=2)
    return out
