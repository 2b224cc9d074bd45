"""Dead latents are asked to explain what the others leave (Gao et al. 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.crosscoder.autograd import index_on
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder, Encoding

PART = 4
"""One in so many of a batch's tokens asks dead latents for help: enough for rows that nothing else
moves, at a fraction of the cost."""

WAITS, FEWEST = 312, 20_000
"""A latent is dead when it has been silent for so many times what latents wait on average, H / k
tokens, and for so many tokens at least: rare latents of a wide dictionary are not dead."""


def patience(config: CrosscoderConfig) -> int:
    """Tokens of silence after which a latent of such a dictionary counts as dead."""
    return max(FEWEST, WAITS * config.n_latents // max(config.k, 1))


def revival(
    crosscoder: Crosscoder,
    encoding: Encoding,
    x: Float[Tensor, "B P D"],
    error: Float[Tensor, "B W D"],
    dead: Bool[Tensor, " H"],
    k: int,
) -> Float[Tensor, ""] | None:
    """The error of `k` dead latents a token as an explanation of `error`; None where none is dead.

    From pre-activations, not activations: those of dead latents are zero by definition.
    """
    some = slice(0, max(1, len(x) // PART))
    entries = _dead_entries(encoding.pre[some], dead, k)
    if entries is None:
        return None
    asked = crosscoder.differentiable(entries, x[some])
    written = asked.with_values(asked.values.relu())
    guess = crosscoder.decode_scaled(written) - crosscoder.b_dec
    left = error[some].detach() - guess[:, index_on(guess.device, crosscoder.layout.written)]
    return dead.any() * left.flatten(1).pow(2).sum(1).mean()


def _dead_entries(
    pre: Float[Tensor, "T H"], dead: Bool[Tensor, " H"], k: int
) -> SparseLatents | None:
    """Each token's dead latents of largest pre-activations, `k` of them.

    A CPU looks at the dead ones alone, None where there are none. Another device looks at all
    latents, so that the host need not wait for how many are dead; where they are too few, entries
    with the value zero fill them up.
    """
    n_latents = len(dead)
    if pre.device.type == "cpu":
        where = dead.nonzero()[:, 0]
        if len(where) == 0:
            return None
        values, chosen = pre[:, where].topk(min(k, len(where)))
        return SparseLatents.from_rows(where[chosen], values, n_latents)
    values, chosen = pre.masked_fill(~dead, -torch.inf).topk(min(k, n_latents))
    return SparseLatents.from_rows(chosen, values.clamp_min(0), n_latents)
