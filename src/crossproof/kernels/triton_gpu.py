"""The kernels as Triton programs, for GPUs.

`crossproof.kernels` states shapes and types; `crossproof.kernels.torch_any` computes the same
numbers anywhere. No program adds into a place that another one writes, so results do not depend on
scheduling: forward passes walk a token's entries in a tile of neurons, backward passes the entries
of a latent. Programs of one tile of neurons stand side by side in the grid, so that the tile of the
weights stays in the second-level cache while all tokens pass. With TRITON_INTERPRET=1 they run on
a CPU, slowly; tests do that. Programs carry no annotations but Triton's own.
"""

# mypy: disallow-untyped-defs=false, disallow-incomplete-defs=false

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

TILE = 256
"""Neurons of one program."""
PAIR_TILE = 32
"""The same where it holds the contributions of many of a token's latents."""
PAIR_SLOTS = 64
"""So many."""
FEATURES = 512
"""Features of a row that one program adds or multiplies."""
AT_ONCE = 4
"""Rows that it reads at a time."""


def _program(function: Callable[..., Any]) -> Any:
    """A Triton program; type-checking import hooks wrap functions, and Triton reads the bare one's
    source."""
    return triton.jit(inspect.unwrap(function))


def dominant(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    excluded: Int[Tensor, "B N"] | None = None,
    beside: Float[Tensor, "H N"] | None = None,
) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B N"]]:
    """The contribution of largest magnitude at each token and neuron, and its entry (or -1).

    With `beside` the weights are |weights| + |beside|, which are formed on the fly.
    """
    tokens, width = len(offsets) - 1, weights.shape[1]
    best = weights.new_empty(tokens, width)
    owner = torch.empty(tokens, width, dtype=torch.int32, device=weights.device)
    if best.numel():
        weights = weights.contiguous()
        other = weights if beside is None else beside.contiguous()
        barred = owner if excluded is None else excluded.contiguous()
        _dominant[(tokens, triton.cdiv(width, TILE))](
            *(offsets, indices, values.contiguous(), weights, other, barred, best, owner, width),
            EXCLUDED=excluded is not None,
            BESIDE=beside is not None,
            TILE=TILE,
        )
    return best, owner


@_program
def _dominant(
    offsets, indices, values, weights, beside, excluded, best, owner, width,
    EXCLUDED: tl.constexpr, BESIDE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    neurons = tl.program_id(1) * TILE + tl.arange(0, TILE)
    inside = neurons < width
    champion = tl.zeros([TILE], dtype=weights.dtype.element_ty)
    holder = tl.full([TILE], -1, dtype=tl.int64)
    here = token * width + neurons
    if EXCLUDED:
        barred = tl.load(excluded + here, mask=inside, other=-1)
    for entry in range(tl.load(offsets + token), tl.load(offsets + token + 1)):
        row = tl.load(indices + entry) * width + neurons
        weight = tl.load(weights + row, mask=inside, other=0)
        if BESIDE:
            weight = tl.abs(weight) + tl.abs(tl.load(beside + row, mask=inside, other=0))
        contribution = tl.load(values + entry) * weight
        wins = tl.abs(contribution) > tl.abs(champion)
        if EXCLUDED:
            wins = wins & (barred != entry)
        champion = tl.where(wins, contribution, champion)
        holder = tl.where(wins, entry, holder)
    tl.store(best + here, champion, mask=inside)
    tl.store(owner + here, holder, mask=inside)


def dominant_backward(
    by_latent: tuple[Int[Tensor, " latents"], Int[Tensor, " nnz"], Int[Tensor, " nnz"]],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    owner: Int[Tensor, "B N"],
    grad: Float[Tensor, "B N"],
    onto: Float[Tensor, "H N"],
) -> Float[Tensor, " nnz"]:
    """Gradients of the owners' values; those of their weights are added to `onto`.

    `by_latent` are the entries by latent: offsets [H+1], tokens, and which entries they are.
    """
    width = weights.shape[1]
    tiles = triton.cdiv(width, TILE)
    parts = values.new_zeros(tiles, len(values))
    if parts.numel():
        starts, tokens, entries = by_latent
        weights, grad = weights.contiguous(), grad.to(weights.dtype).contiguous()
        _dominant_backward[(len(weights), tiles)](
            *(starts, tokens, entries, values.contiguous(), weights, owner.contiguous(), grad),
            *(parts, onto, width, len(values)),
            TILE=TILE,
        )
    return parts.sum(0)


@_program
def _dominant_backward(
    starts, tokens, entries, values, weights, owner, grad, parts, onto, width, count,
    TILE: tl.constexpr,
):  # fmt: skip
    latent, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    low, high = tl.load(starts + latent), tl.load(starts + latent + 1)
    if low < high:
        neurons = tile * TILE + tl.arange(0, TILE)
        inside = neurons < width
        row = latent * width + neurons
        weight = tl.load(weights + row, mask=inside, other=0)
        total = tl.load(onto + row, mask=inside, other=0)
        for at in range(low, high):
            entry = tl.load(entries + at)
            here = tl.load(tokens + at) * width + neurons
            owned = inside & (tl.load(owner + here, mask=inside, other=-1) == entry)
            passed = tl.load(grad + here, mask=owned, other=0)
            total += passed * tl.load(values + entry)
            tl.store(parts + tile.to(tl.int64) * count + entry, tl.sum(passed * weight))
        tl.store(onto + row, total, mask=inside)


def weighted_rows(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    rows: Float[Tensor, "R F"],
) -> Float[Tensor, "B F"]:
    """Sum of `values[j] * rows[indices[j]]` over the entries j of each token."""
    out = rows.new_empty(len(offsets) - 1, rows.shape[1])
    if out.numel():
        grid = len(out), triton.cdiv(out.shape[1], FEATURES)
        _weighted_rows[grid](
            *(offsets, indices, values.contiguous(), rows.contiguous(), out, out.shape[1]),
            FEATURES=FEATURES,
            AT_ONCE=AT_ONCE,
        )
    return out


@_program
def _weighted_rows(
    offsets, indices, values, rows, out, width,
    FEATURES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    features = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    inside = features < width
    total = tl.zeros([FEATURES], dtype=out.dtype.element_ty)
    high = tl.load(offsets + token + 1)
    for low in range(tl.load(offsets + token), high, AT_ONCE):
        entry = low + tl.arange(0, AT_ONCE)
        there = entry < high
        row = tl.load(indices + entry, mask=there, other=0) * width
        value = tl.load(values + entry, mask=there, other=0)
        where = rows + row[:, None] + features[None, :]
        part = tl.load(where, mask=there[:, None] & inside[None, :], other=0)
        total += tl.sum(value[:, None] * part, axis=0)
    tl.store(out + token * width + features, total, mask=inside)


def row_products(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    left: Float[Tensor, "B F"],
    right: Float[Tensor, "R F"],
) -> Float[Tensor, " nnz"]:
    """The inner product of `left[b]` and `right[indices[j]]` for every entry j of token b."""
    tokens, width = left.shape
    tiles = triton.cdiv(width, FEATURES)
    parts = left.new_zeros(tiles, len(indices))
    if parts.numel():
        _row_products[(tokens, tiles)](
            *(offsets, indices, left.contiguous(), right.contiguous(), parts, width, len(indices)),
            FEATURES=FEATURES,
            AT_ONCE=AT_ONCE,
        )
    return parts.sum(0)


@_program
def _row_products(
    offsets, indices, left, right, parts, width, count,
    FEATURES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    token, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    features = tile * FEATURES + tl.arange(0, FEATURES)
    inside = features < width
    one = tl.load(left + token * width + features, mask=inside, other=0)
    high = tl.load(offsets + token + 1)
    for low in range(tl.load(offsets + token), high, AT_ONCE):
        entry = low + tl.arange(0, AT_ONCE)
        there = entry < high
        row = tl.load(indices + entry, mask=there, other=0) * width
        where = right + row[:, None] + features[None, :]
        other = tl.load(where, mask=there[:, None] & inside[None, :], other=0)
        product = tl.sum(one[None, :] * other, axis=1)
        tl.store(parts + tile.to(tl.int64) * count + entry, product, mask=there)


def plain_pairs(
    offsets: Int[Tensor, " bounds"],
    starts: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    owner: Int[Tensor, "B N"],
    norms: Float[Tensor, " N"],
    swings: Float[Tensor, "B N"],
    out: Float[Tensor, "pairs 5"],
) -> None:
    """Writes the five sums of every pair of active latents of every token into `out`.

    The grid needs the widest token's number of latents: one wait for the device a call.
    """
    if len(out) == 0:
        return
    widest = int(offsets.diff().max())
    _plain_pairs[(len(offsets) - 1, widest, triton.cdiv(widest, PAIR_SLOTS))](
        *(offsets, starts, indices, values.contiguous(), weights.contiguous()),
        *(owner.contiguous(), norms.contiguous(), swings.contiguous(), out, weights.shape[1]),
        SLOTS=PAIR_SLOTS,
        TILE=PAIR_TILE,
    )


@_program
def _plain_pairs(
    offsets, starts, indices, values, weights, owner, norms, swings, out, width,
    SLOTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One latent h of a token beside many of its latents k: what h's neurons are charged for k.

    A program writes, of each pair, what its own latent owns, so that no two write one number.
    """
    token = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1)
    first = tl.load(offsets + token)
    active = tl.load(offsets + token + 1) - first
    if (h < active) & (tl.program_id(2) * SLOTS < active):
        k = tl.program_id(2) * SLOTS + tl.arange(0, SLOTS)
        row_h = tl.load(indices + first + h) * width
        row_k = tl.load(indices + first + k, mask=k < active, other=0) * width
        value_h = tl.load(values + first + h)
        value_k = tl.load(values + first + k, mask=k < active, other=0)
        plain = tl.zeros([SLOTS], dtype=tl.float64)
        swung = tl.zeros([SLOTS], dtype=tl.float64)
        smaller = tl.zeros([SLOTS], dtype=tl.float64)
        for low in range(0, width, TILE):
            n = low + tl.arange(0, TILE)
            inside = n < width
            norm = tl.load(norms + n, mask=inside, other=0)
            swing = norm * tl.load(swings + token * width + n, mask=inside, other=0)
            holder = tl.load(owner + token * width + n, mask=inside, other=-1)
            size_h = tl.abs(value_h * tl.load(weights + row_h + n, mask=inside, other=0))
            weight_k = tl.load(weights + row_k[:, None] + n[None, :], mask=inside[None, :], other=0)
            size_k = tl.abs(value_k[:, None] * weight_k)
            owned = (holder == first + h).to(norm.dtype)
            plain += tl.sum(size_k * (owned * norm)[None, :], axis=1).to(tl.float64)
            swung += tl.sum(size_k * (owned * swing)[None, :], axis=1).to(tl.float64)
            least = tl.minimum(size_h[None, :], size_k)
            smaller += tl.sum(least * swing[None, :], axis=1).to(tl.float64)
        one, other = tl.minimum(h, k).to(tl.int64), tl.maximum(h, k)
        pair = tl.load(starts + token) + one * (2 * active - one - 1) // 2 + other - one - 1
        place = out + pair * 5 + tl.where(h < k, 0, 1)
        tl.store(place, plain, mask=(k < active) & (k != h))
        tl.store(place + 2, swung, mask=(k < active) & (k != h))
        tl.store(out + pair * 5 + 4, smaller, mask=(k < active) & (k > h))
