"""A process's part of a dictionary, cut out of the whole and put together again."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from crossproof.crosscoder.layout import Layout, widest
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.training.shards import LatentShard

EVERYWHERE = "b_dec", "W_skip", "scale"
"""Tensors of a dictionary that are not of its latents, whatever their length: all processes have
them."""


def of_latents(name: str, tensor: Tensor, n_latents: int) -> bool:
    """Whether a dictionary's tensor has a row for each of its latents."""
    return name not in EVERYWHERE and tensor.dim() > 0 and len(tensor) == n_latents


@torch.no_grad()
def part_of(whole: Crosscoder, shard: LatentShard) -> Crosscoder:
    """This process's latents as a dictionary of their own; itself if it has them all.

    Raises CrossproofError if the latents are not a multiple of the processes.
    """
    if shard.count == 1:
        return whole
    n_latents = whole.n_latents
    check_parts(n_latents, shard)
    rows = shard.rows(n_latents)
    layout = whole.layout.part(rows)
    config = replace(whole.config, n_latents=rows.stop - rows.start)
    part = Crosscoder(config, whole.hookpoints, whole.d_model, layout)
    part.hookpoints, part.positions = whole.hookpoints, whole.positions
    part.to(whole.b_enc.dtype)
    shapes = part.state_dict()
    part.load_state_dict(
        {
            name: narrowed(tensor[rows], shapes[name])
            if of_latents(name, tensor, n_latents)
            else tensor
            for name, tensor in whole.state_dict().items()
        }
    )
    return part


def check_parts(n_latents: int, shard: LatentShard) -> None:
    """Raises CrossproofError if latents cannot be shared out evenly."""
    if n_latents % shard.count:
        raise CrossproofError(
            f"{n_latents} latents cannot be shared out evenly among {shard.count} processes: "
            f"change --n-latents or --latent-processes.",
            code="CP-OPTION",
        )


def narrowed(rows: Tensor, like: Tensor) -> Tensor:
    """Rows without the places that no latent of the part has (they are zero)."""
    return rows if rows.shape == like.shape else rows[:, : like.shape[1]]


def widened(rows: Tensor, places: int) -> Tensor:
    """Rows [h, R, D] with zeros up to so many places."""
    missing = places - rows.shape[1]
    return rows if not missing else torch.nn.functional.pad(rows, (0, 0, 0, missing))


@torch.no_grad()
def whole_of(part: Crosscoder, layout: Layout, shard: LatentShard) -> Crosscoder:
    """The dictionary of a layout whose parts the processes have: all of them call this.

    The first process of each row gets it, on the CPU; the others get their own part back.
    """
    if shard.count == 1:
        return part
    places = {"W_enc": widest(layout.reading), "W_dec": widest(layout.writing)}
    state = {}
    for name, tensor in part.state_dict().items():
        tensor = tensor.cpu()
        if of_latents(name, tensor, part.n_latents):
            tensor = widened(tensor, places[name]) if name in places else tensor
            tensor = _gathered(tensor, shard)
        state[name] = tensor
    if shard.number:
        return part
    config = replace(part.config, n_latents=layout.n_latents)
    whole = Crosscoder(config, part.hookpoints, part.d_model, layout)
    whole.hookpoints, whole.positions = part.hookpoints, part.positions
    whole.to(part.b_enc.dtype)
    whole.load_state_dict(state)
    return whole


def _gathered(own: Tensor, shard: LatentShard) -> Tensor:
    """Every process's rows, in the first process of the row."""
    first = dist.get_global_rank(shard.group, 0)
    parts = [torch.empty_like(own) for _ in range(shard.count)] if shard.number == 0 else None
    dist.gather(own.contiguous(), parts, dst=first, group=shard.group)
    return own if parts is None else torch.cat(parts)
