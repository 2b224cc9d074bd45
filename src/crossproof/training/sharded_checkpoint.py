"""Checkpoints of processes that share out latents: PyTorch's distributed checkpoints.

Each process writes its own rows of every tensor, in a thread, while training goes on; a checkpoint
can be read by any mesh of as many processes. `.metadata` is written last, by the first process.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor, Replicate, Shard

from crossproof.crosscoder.layout import widest
from crossproof.errors import CrossproofError
from crossproof.training import distributed
from crossproof.training.loop import Training
from crossproof.training.parts import narrowed, of_latents, widened
from crossproof.training.trainer import Trainer

METADATA = ".metadata"
"""PyTorch's own file, there when all processes have written theirs."""


class PendingCheckpoint:
    """A checkpoint that is being written to a temporary folder while training goes on."""

    def __init__(self, folder: Path, training: Training, finish: Callable[[Path], None]) -> None:
        """All processes call this. `finish` completes the temporary folder, in the first one."""
        self.folder, self.temporary = folder, folder.with_name(f".{folder.name}.parts.tmp")
        self._finish = finish
        if distributed.rank() == 0:
            shutil.rmtree(self.temporary, ignore_errors=True)
        distributed.wait_for_all()
        group = distributed.saving_group()
        states = {name: trainer.state() for name, trainer in training.trainers.items()}
        saved = async_save(
            _state(training, states), checkpoint_id=self.temporary, process_group=group
        )
        assert isinstance(saved, Future)
        self._saved: Future[Any] = saved

    @property
    def is_written(self) -> bool:
        """Whether `wait` would return at once."""
        return self._saved.done()

    def wait(self) -> None:
        """Returns when every process's part is written and the folder has its name.

        Raises CrossproofError if it could not be written.
        """
        try:
            self._saved.result()
        except (CheckpointException, OSError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise CrossproofError(
                f"{self.folder} could not be written ({reason}): make room there, or give another "
                f"--out; the checkpoint before it is intact."
            ) from error
        if distributed.rank() == 0:
            self._finish(self.temporary)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.temporary.rename(self.folder)


def is_sharded(folder: Path) -> bool:
    """Whether a checkpoint is of processes that share out latents, and whole."""
    return (folder / METADATA).is_file()


def load_parts(folder: Path, training: Training) -> dict[str, dict[str, Tensor]]:
    """Each trainer's state on this mesh, for `Trainer.load_state`.

    Raises KeyError, RuntimeError or ValueError for a checkpoint of other trainers.
    """
    likes = {name: _with_moments(each) for name, each in training.trainers.items()}
    state = _state(training, likes)
    try:
        held = FileSystemReader(folder).read_metadata().state_dict_metadata
        moments = {key for key in state if key.partition("/")[2].startswith("adam.")}
        for key in moments - held.keys():  # of what has never had a gradient
            del state[key]
        load(state, checkpoint_id=folder, no_dist=distributed.world() == 1)
    except CheckpointException as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from error
    states: dict[str, dict[str, Tensor]] = {name: {} for name in training.trainers}
    for name in training.trainers:
        for key, like in likes[name].items():
            value = state.get(f"{name}/{key}")
            if value is None:
                continue
            rows = value.to_local() if isinstance(value, DTensor) else value
            states[name][key] = narrowed(rows, like)
    return states


def own_rows(trainer: Trainer, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This process's of a state that holds all latents."""
    if trainer.shard.count == 1:
        return dict(whole)
    rows = trainer.shard.rows(trainer.layout.n_latents)
    return {
        key: narrowed(whole[key][rows], like) if _has_latents(trainer, key, like) else whole[key]
        for key, like in trainer.state().items()
    }


def _with_moments(trainer: Trainer) -> dict[str, Tensor]:
    """A trainer's state with places for Adam's, which it makes at its first step."""
    made = {
        f"adam.{index}.{key}": like
        for index, parameter in enumerate(trainer.crosscoder.parameters())
        for key, like in {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter.detach(), device="cpu"),
            "exp_avg_sq": torch.zeros_like(parameter.detach(), device="cpu"),
        }.items()
    }
    return made | trainer.state()


def _state(training: Training, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    return {
        f"{name}/{key}": _placed(training.trainers[name], key, tensor)
        for name, state in states.items()
        for key, tensor in state.items()
    }


def _placed(trainer: Trainer, key: str, tensor: Tensor) -> Tensor:
    """A tensor with where its rows are among all processes' and, of weights, zeros up to the
    places that the whole dictionary's latents have."""
    if not _has_latents(trainer, key, tensor):
        return tensor
    spans = {"W_enc": trainer.layout.reading, "W_dec": trainer.layout.writing}
    if (weights := _parameter(trainer, key)) in spans:
        tensor = widened(tensor, widest(spans[weights]))
    mesh = distributed.mesh()
    return tensor if mesh is None else DTensor.from_local(tensor, mesh, [Replicate(), Shard(0)])


def _has_latents(trainer: Trainer, key: str, tensor: Tensor) -> bool:
    return of_latents(_parameter(trainer, key), tensor, trainer.crosscoder.n_latents)


def _parameter(trainer: Trainer, key: str) -> str:
    """The dictionary's tensor that an entry of a trainer's state is, or is a moment of."""
    if not key.startswith("adam."):
        return key.removeprefix("crosscoder.")
    names = [name for name, _ in trainer.crosscoder.named_parameters()]
    return names[int(key.split(".")[1])]
