"""A dictionary made of groups of latents, each with vectors at its own places alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.layout import LatentGroup, Layout, Places
from crossproof.crosscoder.model import Crosscoder
from crossproof.lm.hookpoints import Hookpoints


@dataclass(frozen=True, eq=False)
class GroupWeights:
    """A group of latents and its vectors, at its own places."""

    group: LatentGroup
    W_enc: Float[Tensor, "S R D"]
    W_dec: Float[Tensor, "S W D"]

    @classmethod
    def of(
        cls,
        W_enc: Float[Tensor, "S R D"],
        W_dec: Float[Tensor, "S W D"],
        reads: Places,
        writes: Places,
    ) -> GroupWeights:
        """Without the places at which all vectors are zero; what is left in ascending order."""
        reads, W_enc = _used(W_enc, reads)
        writes, W_dec = _used(W_dec, writes)
        return cls(LatentGroup(len(W_enc), reads, writes), W_enc, W_dec)


def _used(
    weights: Float[Tensor, "S R D"], places: Places
) -> tuple[Places, Float[Tensor, "S used D"]]:
    slots = [at for at in range(len(places)) if bool(weights[:, at].any())] or [0]
    slots.sort(key=lambda at: places[at])
    if slots == list(range(len(places))):
        return tuple(places), weights[:, : len(places)]  # not a copy of all
    return tuple(places[at] for at in slots), weights[:, slots]


@torch.no_grad()
def assembled(
    config: CrosscoderConfig,
    hookpoints: Hookpoints,
    groups: Sequence[GroupWeights],
    skips: tuple[tuple[int, int], ...] = (),
    like: Tensor | None = None,
) -> Crosscoder:
    """One dictionary of all groups' latents, in order, with the dtype and device of `like`.

    Biases and skips are zero, the scale one, the rule that of `config`.
    """
    layout = Layout(tuple(each.group for each in groups), skips)
    made = Crosscoder(config, hookpoints, groups[0].W_enc.shape[2], layout)
    if like is not None:
        made.to(like)
    start = 0
    for each in groups:
        rows = slice(start, start + each.group.latents)
        start = rows.stop
        made.W_enc[rows, : each.W_enc.shape[1]] = each.W_enc
        made.W_dec[rows, : each.W_dec.shape[1]] = each.W_dec
    return made
