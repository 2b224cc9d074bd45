"""Shapley–Taylor interactions of a token's strongest latents, for all tokens of a batch at once.

`interactions.shapley_taylor` treats one token with any number of players. Here all tokens have the
same few players, so the indices of order 2 are one matrix, `pair_shares`, times the values of all
coalitions. A latent's strength is what it could do at most on its own, Σ_n ‖o_n‖ |p_nh|; the
others are left out of every coalition, so that this restricts the game and does not estimate it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.shapley import all_coalitions, pair_shares
from crossproof.interactions.stream import Views, seen_by_mlps

PLAYERS = 6
"""Latents a token that play by default: 64 coalitions a block."""

_NUMBERS = 2**20
"""Numbers in the largest temporary: 4 MiB, which stays in the cache."""


def strongest(latents: SparseLatents, views: Views, players: int = PLAYERS) -> Int[Tensor, "B m"]:
    """Each token's entries with the strongest latents, all blocks together, in ascending order;
    -1 first, where fewer are active."""
    strength = torch.zeros_like(latents.values)
    for seen in seen_by_mlps(latents, views).values():
        view = seen.dictionary
        paths = view.G.abs() if view.G_gate is None else view.G.abs() + view.G_gate.abs()
        size = (paths @ view.output_norms)[latents.indices] * seen.latents.values.abs()
        strength += size if seen.weight is None else size * seen.weight[latents.token_index]
    width = max(players, int(latents.offsets.diff().max()) if latents.n_tokens else 0)
    entries = torch.arange(len(latents.indices), device=latents.indices.device)
    slot = entries - latents.offsets[latents.token_index]
    score = latents.values.new_full((latents.n_tokens, width), -1.0)
    score[latents.token_index, slot] = strength
    entry = torch.full_like(score, -1, dtype=torch.int64)
    entry[latents.token_index, slot] = entries
    return entry.gather(1, score.topk(players, dim=1).indices).sort(1).values


def shapley_pairs(
    latents: SparseLatents, entry: Int[Tensor, "B m"], views: Views
) -> Float[Tensor, "B pairs"]:
    """‖φ_ij‖ of the MLP's output, summed over blocks, for each two players of each token."""
    coalitions, present = all_coalitions(entry.shape[1]), entry >= 0
    shares, members = pair_shares(coalitions).T.to(latents.values), coalitions.to(latents.values)
    rows = torch.where(present, latents.indices[entry.clamp_min(0)], 0)
    out = latents.values.new_zeros(len(entry), len(shares))
    for seen in seen_by_mlps(latents, views).values():
        view = seen.dictionary
        values = torch.where(present, seen.latents.values[entry.clamp_min(0)], 0)[..., None]
        paths = [view.G] if view.G_gate is None else [view.G, view.G_gate]
        sizes = torch.zeros_like(out)
        step = max(1, _NUMBERS // (len(coalitions) * view.mlp.n_neurons))
        for start in range(0, len(entry), step):
            part = slice(start, start + step)
            sums = [members @ (values[part] * G[rows[part]]) for G in paths]
            here = view.of_tokens(part)
            tokens = torch.arange(len(sums[0]), device=rows.device).repeat_interleave(len(members))
            flat = here.of_tokens(tokens).neurons(*(each.flatten(0, 1) for each in sums))
            neurons = flat.view(*sums[0].shape)
            sizes[part] = ((shares @ neurons) @ view.output_vectors).norm(dim=2)
        out += seen.weighed(sizes)
    return out
