"""Choosing active latents over the tokens and latents of several processes, as one would.

A sparsity rule sees one process's pre-activations. Rules that look at one entry at a time need no
more; of those that compare entries, BatchTopK's cut is found over all processes, and TopK's
candidates over those that share out the latents.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.sparsity import (
    BatchTopK,
    JumpReLU,
    ReLU,
    Sparsity,
    TopK,
    entries_above,
)
from crossproof.errors import CrossproofError
from crossproof.training import distributed
from crossproof.training.shards import LatentShard

Select = Callable[[Float[Tensor, "B H"]], SparseLatents]
"""Chooses the entries of a training batch, as `Sparsity.select` does."""
DIGIT = 16
"""Bits that a search for a cut decides at a time, by a histogram of 2^16 counts."""


def selection(sparsity: Sparsity, shard: LatentShard) -> Select:
    """The rule's choice in training, over all processes that take part in it.

    Raises CrossproofError for a rule that is not known to be the same over parts of the latents.
    """
    if isinstance(sparsity, BatchTopK) and distributed.world() > 1:
        return lambda pre: _batch_topk(sparsity, pre)
    if shard.count > 1:
        if type(sparsity) is TopK and sparsity.groups == 1:
            return lambda pre: _topk(sparsity.k, pre, shard)
        if not isinstance(sparsity, ReLU | JumpReLU):
            raise CrossproofError(
                f"Latents chosen by {type(sparsity).__name__} cannot be shared out among "
                f"processes: choose --sparsity topk, batch_topk, relu or jumprelu, or leave out "
                f"--latent-processes.",
                code="CP-OPTION",
            )
    return lambda pre: sparsity.select(pre, training=True)


def _batch_topk(rule: BatchTopK, pre: Float[Tensor, "B H"]) -> SparseLatents:
    """The k·B largest positive entries of all B tokens of all processes."""
    if pre.is_meta:
        return rule.select(pre, training=True)
    tokens = torch.tensor(len(pre), device=pre.device)
    distributed.sum_over_rows_(tokens)
    wanted = rule.k * int(tokens)
    low = pre.new_tensor(0.8 * max(0.0, float(rule.threshold)))  # where the last cuts were
    candidates = entries_above(pre, low).values
    if _total(candidates) <= wanted:
        candidates = entries_above(pre, pre.new_zeros(())).values
    cut = cut_above(candidates, wanted)
    rule._track(cut)
    return entries_above(pre, cut)


def cut_above(values: Float[Tensor, " M"], wanted: int) -> Float[Tensor, ""]:
    """The value that exactly the `wanted` largest of all processes' positive `values` exceed.

    Zero if there are not more. Where values are equal, fewer exceed it. The bits of positive
    floating-point numbers are ordered as the numbers are: histograms of their digits, added up over
    processes, say digit by digit which the next largest is.
    """
    kind = {torch.float32: torch.int32, torch.float64: torch.int64}[values.dtype]
    bits = values.contiguous().view(kind)
    prefix, left = bits.new_zeros(()), wanted + 1
    for shift in range(torch.iinfo(kind).bits - DIGIT, -1, -DIGIT):
        digit = (bits >> shift) & ((1 << DIGIT) - 1)
        counts = torch.bincount(digit.to(torch.int64), minlength=1 << DIGIT)
        distributed.sum_(counts)
        reached = counts.flip(0).cumsum(0)  # how many are at least so large
        at = int(torch.searchsorted(reached, left))
        if at == len(reached):
            return values.new_zeros(())
        chosen = len(reached) - 1 - at
        left -= int(reached[at] - counts[chosen])
        prefix = prefix | (bits.new_tensor(chosen) << shift)
        bits = bits[digit == chosen]
    return prefix.view(values.dtype)


def _topk(k: int, pre: Float[Tensor, "B h"], shard: LatentShard) -> SparseLatents:
    """This process's of the k largest entries of each token."""
    values, latents = pre.topk(k, dim=1)
    return own_entries(values, latents, k, shard, pre.shape[1])


def own_entries(
    values: Float[Tensor, "B K"],
    latents: Int[Tensor, "B K"],
    k: int,
    shard: LatentShard,
    n_latents: int,
) -> SparseLatents:
    """Of each process's candidates the k largest of each token, as far as they are its own."""
    if values.is_meta:
        return SparseLatents.from_rows(latents, values, n_latents)
    width = values.shape[1]
    everywhere = shard.gather_rows(values.detach()[None]).transpose(0, 1).flatten(1)
    best = everywhere.topk(min(k, everywhere.shape[1]), dim=1).indices
    chosen = torch.zeros_like(everywhere, dtype=torch.bool).scatter_(1, best, True)
    own = chosen[:, shard.number * width : (shard.number + 1) * width]
    whole = SparseLatents.from_rows(latents, values, n_latents)
    order = latents.argsort(dim=1)
    return whole.keep(own.gather(1, order).flatten())


def _total(values: Tensor) -> int:
    count = torch.tensor(len(values), device=values.device)
    distributed.sum_(count)
    return int(count)
