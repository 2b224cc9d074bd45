"""Data-parallel training: every process holds the whole crosscoder and a share of each batch.

Started by `torchrun`, processes find each other through its environment variables. Gradients are
averaged, so that a step is that of one process with all the tokens; everything that steers
training besides gradients (thresholds, silence of latents, the wish to stop) is averaged or
summed too, so that all processes hold the same weights at every step. With one process each
function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from crossproof.errors import CrossproofError


@contextmanager
def process_group() -> Iterator[None]:
    """Joins torchrun's processes for the block; without torchrun nothing happens."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group()  # gloo between CPUs, nccl between GPUs
    try:
        yield
    finally:
        dist.destroy_process_group()


def local_device(device: str) -> str:
    """This process's device: `cuda` (or `xpu`, ...) becomes the one of its local rank.

    That is then PyTorch's current device, where collectives without a tensor of their own meet.
    """
    if world() == 1 or device == "cpu" or ":" in device:
        return device
    number = os.environ.get("LOCAL_RANK", "0")
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type == device:
        torch.accelerator.set_device_index(int(number))
    return f"{device}:{number}"


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0. The first process writes files and shows progress."""
    return dist.get_rank() if dist.is_initialized() else 0


def share_of(batch_tokens: int) -> int:
    """A process's part of a batch; CrossproofError if it cannot be dealt out evenly."""
    if batch_tokens % world():
        raise CrossproofError(
            f"{batch_tokens} tokens a step cannot be dealt out evenly to {world()} processes: "
            f"change --batch-tokens or the number of processes."
        )
    return batch_tokens // world()


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replaces each floating-point tensor by its mean over all processes."""
    if world() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(world())


@torch.no_grad()
def sum_(tensor: Tensor) -> None:
    """Replaces the tensor by its sum over all processes."""
    if world() > 1:
        dist.all_reduce(tensor)


@torch.no_grad()
def copy_from_first_(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by the first process's."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if world() == 1:
        return flag
    count = torch.tensor(int(flag), device=device)
    dist.all_reduce(count)
    return bool(count)


def wait_for_all() -> None:
    """Returns once every process is here."""
    if world() > 1:
        dist.barrier()
