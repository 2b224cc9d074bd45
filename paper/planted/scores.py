"""What different measures say of pairs of latents, on the same tokens: each a matrix [H, H]."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder import SparseLatents
from crossproof.interactions import (
    MLPDictionary,
    absolute_sums,
    output_game,
    second_difference_sums,
    shapley_taylor,
    token_pairs,
)

LEAST = 4
"""Means of pairs active together on fewer tokens are not told from chance: zero."""
MOST = 12
"""Active latents of a token, up to which Shapley-Taylor indices are exact."""

Scores = dict[str, Float[Tensor, "H H"]]


def pair_scores(
    view: MLPDictionary, latents: SparseLatents, x: Float[Tensor, "B D"], cosine: Tensor
) -> Scores:
    """Every measure's sum over tokens and, as NAME/mean, its mean over tokens with both active.

    `x` is the MLP's own input, at which Jacobians are taken; `cosine` [H, H] that of the decoder
    vectors. Co-activation and cosine have one form each.
    """
    whole = token_pairs(latents, {0: view})
    table = whole.collected()
    pairs, together = table.pairs.long(), table.coactive
    sums: dict[str, Tensor] = {form: table.pair_sums(form, normalise="sum") for form in table.forms}
    for context in ("alone", "others"):
        differences = second_difference_sums(view, latents, pairs, context)
        sums[f"second difference, {context}"] = differences.neurons
    sums["second difference, output"] = differences.output
    games = (output_game(view, latents, token) for token in range(latents.n_tokens))
    indices = (shapley_taylor(game) for game in games if len(game.players) > 1)
    sums["Shapley-Taylor"] = absolute_sums(indices, pairs, latents.n_latents).total
    first, second = whole.entries
    jacobians = jacobian_scores(view, whole.latents, first, second, x)
    rows = _rows(pairs, whole.latents.indices[first], whole.latents.indices[second], latents)
    for name, values in jacobians.items():
        sums[name] = torch.zeros(len(pairs), dtype=torch.float64).index_add(0, rows, values)
    scores: Scores = {}
    for name, values in sums.items():
        scores[name] = _matrix(pairs, values, latents.n_latents)
        mean = torch.where(together >= LEAST, values / together, 0.0)
        scores[f"{name}/mean"] = _matrix(pairs, mean, latents.n_latents)
    return scores | coactivation(latents) | {"decoder cosine": cosine.abs().double()}


def jacobian_scores(
    view: MLPDictionary,
    latents: SparseLatents,
    first: Int[Tensor, " pairs"],
    second: Int[Tensor, " pairs"],
    x: Float[Tensor, "B D"],
) -> dict[str, Float[Tensor, " pairs"]]:
    """Two scores of entry pairs from the MLP's Jacobian j_nh = dF_n/da_h at its own input.

    overlap: sum_n ‖o_n‖ min(|a_h j_nh|, |a_k j_nk|): the neurons through which both reach the
    output, to first order. change: sum_n ‖o_n‖ |a_h (j_nh - j_nh without k)|, and the same with h
    and k exchanged, halved.
    """
    token, norms = latents.token_index[first], view.output_norms.double()
    paths = [view.mlp.W_in] if view.mlp.W_gate is None else [view.mlp.W_in, view.mlp.W_gate]
    biases = [view.mlp.b_in] if view.mlp.b_gate is None else [view.mlp.b_in, view.mlp.b_gate]
    at = [(x @ w + b)[token] for w, b in zip(paths, biases, strict=True)]
    virtual = [view.G] if view.G_gate is None else [view.G, view.G_gate]
    steps = [latents.values[:, None] * G[latents.indices] for G in virtual]

    def effect(entries: Tensor, without: Tensor | None = None) -> Float[Tensor, "pairs N"]:
        moved = at
        if without is not None:
            moved = [z - step[without] for z, step in zip(at, steps, strict=True)]
        slopes = _slopes(view, moved)
        parts = [slope * step[entries] for slope, step in zip(slopes, steps, strict=True)]
        return torch.stack(parts).sum(0)

    one, other = effect(first), effect(second)
    overlap = torch.minimum(one.abs(), other.abs()).double() @ norms
    changes = (one - effect(first, second)).abs() + (other - effect(second, first)).abs()
    return {"Jacobian overlap": overlap, "Jacobian change": changes.double() @ norms / 2}


def _slopes(view: MLPDictionary, at: list[Tensor]) -> tuple[Tensor, ...]:
    """Derivatives of the neurons' values in each path's pre-activation."""
    leaves = [z.detach().clone().requires_grad_() for z in at]
    activation = view.mlp.activation
    with torch.enable_grad():
        out = activation(leaves[0]) if len(leaves) == 1 else activation(leaves[1]) * leaves[0]
        return torch.autograd.grad(out.sum(), leaves)


def coactivation(latents: SparseLatents) -> Scores:
    """Jaccard's index of when latents are active, and the correlation of their activations."""
    dense = latents.dense().double()
    active = (dense != 0).double()
    both, each = active.T @ active, active.sum(0)
    jaccard = both / (each[:, None] + each - both).clamp_min(1)
    centred = dense - dense.mean(0)
    size = centred.norm(dim=0).clamp_min(1e-12)
    correlation = (centred.T @ centred) / (size[:, None] * size)
    return {"Jaccard": jaccard, "correlation": correlation.clamp_min(0)}


def _rows(
    pairs: Int[Tensor, "M 2"], one: Tensor, other: Tensor, latents: SparseLatents
) -> Int[Tensor, " entries"]:
    """The row of `pairs`, sorted as the table has them, of each entry pair."""
    keys = pairs[:, 0] * latents.n_latents + pairs[:, 1]
    order = keys.argsort()
    return order[torch.searchsorted(keys[order], one * latents.n_latents + other)]


def _matrix(pairs: Int[Tensor, "M 2"], values: Tensor, n_latents: int) -> Float[Tensor, "H H"]:
    out = torch.zeros(n_latents, n_latents, dtype=torch.float64)
    first, second = pairs.unbind(1)
    out[first, second] = out[second, first] = values.double()
    return out
