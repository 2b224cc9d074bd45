"""Dead latents are asked to explain what the others leave (Gao et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.crosscoder.autograd import index_on
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.latents import SparseLatents
from crossproof.training.selection import own_entries
from crossproof.training.shards import LatentShard
from crossproof.training.step import Step

PART = 4
"""One in so many of a batch's tokens asks dead latents for help: enough for rows that nothing else
moves, at a fraction of the cost."""

WAITS, FEWEST = 312, 20_000
"""A latent is dead when it has been silent for so many times what latents wait on average, H / k
tokens, and for so many tokens at least: rare latents of a wide dictionary are not dead."""


def patience(config: CrosscoderConfig) -> int:
    """Tokens of silence after which a latent of such a dictionary counts as dead."""
    return max(FEWEST, WAITS * config.n_latents // max(config.k, 1))


def revival(step: Step, dead: Bool[Tensor, " H"], k: int) -> Float[Tensor, ""] | None:
    """The error of `k` dead latents a token as an explanation of the step's; None where none is.

    From pre-activations, not activations: those of dead latents are zero by definition.
    """
    crosscoder, shard = step.crosscoder, step.shard
    some = slice(0, max(1, len(step.x) // PART))
    entries = _dead_entries(step.encoding.pre[some], dead, k, shard)
    if entries is None:
        return None
    asked = crosscoder.differentiable(entries, step.x[some])
    written = asked.with_values(asked.values.relu())
    guess = shard.sum(crosscoder.latents_with_vectors(written, ())[0])
    left = step.error[some].detach() - guess[:, index_on(guess.device, step.written)]
    any_dead = shard.sum(dead.sum()) > 0
    return any_dead * left.flatten(1).pow(2).sum(1).mean()


def _dead_entries(
    pre: Float[Tensor, "T H"], dead: Bool[Tensor, " H"], k: int, shard: LatentShard
) -> SparseLatents | None:
    """Each token's dead latents of largest pre-activations, `k` of them over all processes.

    A CPU looks at the dead ones alone, None where there are none. Another device looks at all
    latents, so that the host need not wait for how many are dead, as do processes that share them
    out; where they are too few, entries with the value zero fill them up.
    """
    n_latents = len(dead)
    if pre.device.type == "cpu" and shard.count == 1:
        where = dead.nonzero()[:, 0]
        if len(where) == 0:
            return None
        values, chosen = pre[:, where].topk(min(k, len(where)))
        return SparseLatents.from_rows(where[chosen], values, n_latents)
    values, chosen = pre.masked_fill(~dead, -torch.inf).topk(min(k, n_latents))
    if shard.count > 1:
        entries = own_entries(values, chosen, k, shard, n_latents)
        return entries.with_values(entries.values.clamp_min(0))
    return SparseLatents.from_rows(chosen, values.clamp_min(0), n_latents)
