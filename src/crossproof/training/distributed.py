"""Several processes train together: shares of each batch and, if asked, of the latents.

Started by `torchrun`, processes find each other through its environment variables. They stand in a
mesh, ("data", "latent"). The processes of a row hold a dictionary's latents between them, each its
own, and see the same tokens; rows see different tokens, and their gradients are averaged, so that a
step is that of one process with all the tokens. Everything that steers training besides gradients
(thresholds, silence of latents, the wish to stop) is averaged or summed too. A row of one process
holds whole dictionaries. With one process each function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from crossproof.errors import CrossproofError

PATIENCE = timedelta(days=30)
"""How long processes wait for each other that share out a text: a slice, and what the first does
alone, may take hours. Nobody waits for a dead one: torchrun ends the others."""
_meshes: list[DeviceMesh] = []
"""The mesh of the process group that was joined, if any."""
_saving: list[dist.ProcessGroup] = []
"""A group for checkpoints: what is written while training goes on must not meet its messages."""


@contextmanager
def process_group(latent_processes: int = 1, patient: bool = False) -> Iterator[None]:
    """Joins torchrun's processes for the block; without torchrun, and in a block of another such
    command, nothing happens.

    `latent_processes` share out the latents of each dictionary. `patient`: one waits for another as
    long as it takes, not PyTorch's minutes. Raises CrossproofError if the processes do not divide
    into rows of so many.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if latent_processes < 1 or processes % latent_processes:
        raise CrossproofError(
            f"{processes} process{'es' * (processes > 1)} cannot share out latents among "
            f"{latent_processes}: start a multiple of that with `torchrun --nproc-per-node`, or "
            f"change --latent-processes."
        )
    if processes == 1 or dist.is_initialized():
        yield
        return
    _join(PATIENCE if patient else None)
    shape = processes // latent_processes, latent_processes
    _meshes.append(init_device_mesh("cpu", shape, mesh_dim_names=("data", "latent")))
    if latent_processes > 1:
        _saving.append(dist.new_group(backend="gloo"))
    try:
        yield
    finally:
        _meshes.clear()
        _saving.clear()
        dist.destroy_process_group()


def _join(patience: timedelta | None) -> None:
    """Joins, gloo between CPUs and nccl between GPUs.

    torchrun keeps one store of addresses through all its restarts. A process that is faster than
    another would find there where that was before it died, so restarts have places of their own;
    not on several machines, which do not count them alike (docs/guide/scale.md has the remedy).
    """
    alone = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if not (restarted() and alone):
        dist.init_process_group(timeout=patience)
        return
    store, rank, world = next(rendezvous("env://"))
    place = PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(store=place, rank=rank, world_size=world, timeout=patience)


def mesh() -> DeviceMesh | None:
    """The processes' mesh ("data", "latent"); None where one process trains alone."""
    return _meshes[0] if _meshes else None


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


def restarted() -> bool:
    """Whether torchrun has started the processes again because one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


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


def saving_group() -> dist.ProcessGroup | None:
    """The processes again, for writing checkpoints beside the training."""
    return _saving[0] if _saving else None


def rows() -> int:
    """How many rows of processes there are, each with tokens of its own."""
    return dist.get_world_size(_meshes[0].get_group("data")) if _meshes else 1


@torch.no_grad()
def average_(tensors: Iterable[Tensor]) -> None:
    """Replaces each floating-point tensor by its mean over all processes."""
    if world() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(world())


@torch.no_grad()
def average_over_rows_(tensors: Iterable[Tensor]) -> None:
    """Replaces each floating-point tensor, of this process's own latents, by its mean over the
    processes of other rows that have the same."""
    if rows() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor, group=_meshes[0].get_group("data"))
        tensor.div_(rows())


@torch.no_grad()
def mean_over_rows(mean: Tensor) -> Tensor:
    """The mean over all rows' tokens of what is here the mean over one row's; data, no gradient."""
    if rows() == 1 or mean.is_meta:
        return mean
    whole = mean.clone()
    average_over_rows_([whole])
    return whole


@torch.no_grad()
def sum_(tensor: Tensor) -> None:
    """Replaces the tensor by its sum over all processes."""
    if world() > 1 and not tensor.is_meta:
        dist.all_reduce(tensor)


@torch.no_grad()
def sum_over_rows_(tensor: Tensor) -> None:
    """Replaces the tensor by its sum over the processes that have the same latents."""
    if rows() > 1 and not tensor.is_meta:
        dist.all_reduce(tensor, group=_meshes[0].get_group("data"))


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
