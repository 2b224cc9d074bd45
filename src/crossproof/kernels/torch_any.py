"""The kernels in plain PyTorch: every device and dtype, and the reference for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24
"""Largest intermediate of the chunked loops, in elements: 64 MiB of float32."""
PAIR_ELEMENTS = 1 << 22
"""The same where pairs of entries are summed, in float64: 32 MiB."""


def weighted_rows(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    rows: Float[Tensor, "R F"],
) -> Float[Tensor, "B F"]:
    """Sum of `values[j] * rows[indices[j]]` over the entries j of each token."""
    return F.embedding_bag(
        indices, rows, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def entries_above(
    pre: Float[Tensor, "B H"], thresholds: Float[Tensor, " H"]
) -> tuple[Int[Tensor, "B+1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """CSR offsets, indices and values of the entries of `pre` above their latent's threshold."""
    if pre.is_meta:  # without values: half of them
        some = pre.numel() // 2
        bounds = torch.empty(len(pre) + 1, dtype=torch.int64, device=pre.device)
        return bounds, bounds.new_empty(some), pre.new_empty(some)
    above = pre > thresholds
    offsets = F.pad(above.sum(1).cumsum(0), (1, 0))
    tokens, latents = above.nonzero().unbind(1)
    return offsets, latents, pre[tokens, latents]


def row_products(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    left: Float[Tensor, "B F"],
    right: Float[Tensor, "R F"],
) -> Float[Tensor, " nnz"]:
    """The inner product of `left[b]` and `right[indices[j]]` for every entry j of token b."""
    if left.is_meta:
        return left.new_empty(len(indices))
    tokens = torch.repeat_interleave(offsets.diff(), output_size=len(indices))
    step = max(1, CHUNK_ELEMENTS // left.shape[1])
    pairs = zip(tokens.split(step), indices.split(step), strict=True)
    return torch.cat([torch.linalg.vecdot(left[t], right[i]) for t, i in pairs])


def dominant(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    excluded: Int[Tensor, "B N"] | None = None,
) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B N"]]:
    """The contribution of largest magnitude at each token and neuron, and its entry (or -1)."""
    if weights.is_meta:
        shapes = weights.new_empty(len(offsets) - 1, weights.shape[1])
        return shapes, torch.empty_like(shapes, dtype=torch.int32)
    counts = offsets.diff()
    tokens, width = len(counts), weights.shape[1]
    best = values.new_zeros(tokens, width)
    owner = torch.full((tokens, width), -1, dtype=torch.int32, device=values.device)
    step = max(1, CHUNK_ELEMENTS // max(width, 1))
    for low in range(0, tokens, step):
        block = slice(low, min(low + step, tokens))
        champion, holder = best[block], owner[block]
        for slot in range(int(counts[block].max()) if len(counts[block]) else 0):
            present = slot < counts[block]
            entry = torch.where(present, offsets[:-1][block] + slot, 0)
            name = entry.to(torch.int32)[:, None]
            p = weights[indices[entry]] * (values[entry] * present)[:, None]
            wins = p.abs() > champion.abs()
            if excluded is not None:
                wins &= excluded[block] != name
            champion.copy_(torch.where(wins, p, champion))
            holder.copy_(torch.where(wins, name, holder))
    return best, owner


def sums_by_sign(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Sums of the negative and of the positive contributions at each token and neuron."""
    up, down, entries = weights.clamp_min(0), weights.clamp_max(0), (offsets, indices)
    plus, minus = values.clamp_min(0), values.clamp_max(0)
    negative, positive = (weighted_rows(*entries, plus, rows) for rows in (down, up))
    if values.is_meta or (values < 0).any():  # dictionaries of others may have such activations
        negative = negative + weighted_rows(*entries, minus, up)
        positive = positive + weighted_rows(*entries, minus, down)
    return negative, positive


def dominant_backward(
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    owner: Int[Tensor, "B N"],
    grad: Float[Tensor, "B N"],
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "H N"]]:
    """Gradients of the owners' values and weights, given the gradient at each (token, neuron)."""
    if weights.is_meta:
        return torch.empty_like(values), torch.empty_like(weights)
    entry = owner.to(torch.int64)
    owned = entry >= 0
    entry = entry.clamp_min(0)
    latent = indices[entry] if len(indices) else torch.zeros_like(entry)
    flat = latent * weights.shape[1] + torch.arange(weights.shape[1], device=grad.device)
    masked = torch.where(owned, grad, 0)
    held = values[entry] if len(values) else torch.zeros_like(masked)
    grad_weights = torch.zeros_like(weights).view(-1)
    grad_weights.index_add_(0, flat.view(-1), (masked * held).reshape(-1))
    grad_values = torch.zeros_like(values)
    if len(values):
        products = masked * weights.reshape(-1)[flat]
        grad_values.index_add_(0, entry.view(-1), products.reshape(-1))
    return grad_values, grad_weights.view_as(weights)


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
    """Writes the five sums of every pair of active latents of every token into `out`."""
    if len(out) == 0:
        return
    width = weights.shape[1]
    for low, high, widest in token_runs(offsets.diff().tolist(), PAIR_ELEMENTS, width):
        present, entry = slots(offsets[low : high + 1], widest)
        held, latents = (values[entry] * present)[..., None], indices[entry]
        sums = out.new_zeros(3, high - low, widest, widest)
        step = max(1, PAIR_ELEMENTS // ((high - low) * widest))
        for start in range(0, width, step):
            some = slice(start, start + step)
            sizes = (held * weights[:, some][latents]).abs().double()
            owned = entry[..., None] == owner[low:high, None, some]
            owned &= present[..., None]
            charge = norms[some].double() * swings[low:high, some].double()
            sums[0] += (owned * norms[some].double()) @ sizes.mT
            sums[1] += (owned * charge[:, None]) @ sizes.mT
            sums[2] += pairwise_minima(sizes, charge)
        rows, pairs = out[starts[low] : starts[high]], upper(present)
        for at, column in enumerate((sums[0], sums[0].mT, sums[1], sums[1].mT, sums[2])):
            rows[:, at] = column[pairs]


def token_runs(active: Sequence[int], most: int, across: int) -> Iterator[tuple[int, int, int]]:
    """Tokens from, to, and the most entries of one: each run's padded arrays hold `most` numbers.

    They have a row for each of a token's entries and as many columns, or `across` if that is more;
    one token alone may have more. So a token with many entries widens its neighbours' rows at most,
    not all of the batch's.
    """
    low, widest = 0, 0
    for at, count in enumerate(active):
        wider = max(widest, count)
        if at > low and (at + 1 - low) * wider * max(across, wider) > most:
            yield low, at, widest
            low, wider = at, count
        widest = wider
    if active:
        yield low, len(active), widest


def pairwise_minima(
    sizes: Float[Tensor, "B K N"], weights: Float[Tensor, "B N"]
) -> Float[Tensor, "B K K"]:
    """Σ_n w_n min(s_hn, s_kn) for every two slots of each token, one row of pairs at a time."""
    least = (torch.minimum(row[:, None], sizes) for row in sizes.unbind(1))
    rows = [(part @ weights[..., None])[..., 0] for part in least]
    return torch.stack(rows, 1) if rows else sizes.new_zeros(len(sizes), 0, 0)


def pair_table(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    sums: Float[Tensor, "pairs C"],
    n_latents: int,
) -> tuple[Int[Tensor, "M 2"], Int[Tensor, " M"], Float[Tensor, "M C"]]:
    """The pairs of all tokens by their latents: sorted pairs, how often they occur, their sums."""
    first, second = entry_pairs(offsets)
    keys, row = torch.unique(indices[first] * n_latents + indices[second], return_inverse=True)
    table = sums.new_zeros(len(keys), sums.shape[1])
    for column, total in zip(sums.unbind(1), table.unbind(1), strict=True):
        total.index_add_(0, row, column)
    pairs = torch.stack([keys // n_latents, keys % n_latents], 1)
    return pairs, torch.bincount(row, minlength=len(keys)), table


def entry_pairs(
    offsets: Int[Tensor, " bounds"],
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """Every two entries of one token, token after token: (0,1), (0,2), ... (1,2), ..."""
    entries = torch.arange(int(offsets[-1]), device=offsets.device)
    ends = torch.repeat_interleave(offsets[1:], offsets.diff())
    return ragged(entries + 1, ends - entries - 1)


def ragged(
    starts: Int[Tensor, " X"], counts: Int[Tensor, " X"]
) -> tuple[Int[Tensor, " total"], Int[Tensor, " total"]]:
    """The numbers starts[x], ..., starts[x] + counts[x] - 1 of every x, behind the x of each."""
    owner = torch.repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    within = torch.arange(len(owner), device=owner.device) - before[owner]
    return owner, starts[owner] + within


def slots(
    offsets: Int[Tensor, " bounds"], widest: int
) -> tuple[Bool[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Entries of each token padded to `widest` columns: which exist, and where."""
    column = torch.arange(widest, device=offsets.device)
    present = column < offsets.diff()[:, None]
    return present, torch.where(present, offsets[:-1, None] + column, 0)


def upper(present: Bool[Tensor, "B K"]) -> Bool[Tensor, "B K K"]:
    """Pairs of columns h < k that both exist."""
    both = present[:, :, None] & present[:, None]
    return both.triu(diagonal=1)
