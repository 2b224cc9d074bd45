"""Checkpoints of a run: all its trainers at one step, in a folder of safetensors and JSON."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.files import atomic_folder, read_json, read_tensors
from crossproof.training import distributed
from crossproof.training.config import config_to_dict
from crossproof.training.loop import Training
from crossproof.training.sharded_checkpoint import (
    PendingCheckpoint,
    is_sharded,
    load_parts,
    own_rows,
)

STATE, MANIFEST = "training.safetensors", "checkpoint.json"

MAY_CHANGE = (
    *("model", "text", "threads", "device", "checkpoint_every", "log_every"),
    *("evaluation_sequences", "evaluation_skip", "start", "activations"),
)
"""Settings that a resumed run may have otherwise: none decides what is trained (of model and text
their contents do, which are compared)."""


class Checkpoints:
    """Writes the checkpoints of a run, all its processes at once."""

    def __init__(self, run: Path, training: Training) -> None:
        self.run, self.training = run, training
        self._pending: PendingCheckpoint | None = None

    def save(self) -> None:
        """Writes `run/checkpoints/step-N` atomically, then removes older ones.

        Processes that share out latents go on while it is written: `finish` waits for it.
        """
        self.finish()
        training, step = self.training, self.training.step
        folder = self.run / "checkpoints" / f"step-{step:08d}"
        manifest = {"step": step, "runs": sorted(training.trainers), **_origin(training)}

        def complete(temporary: Path) -> None:
            (temporary / MANIFEST).write_text(json.dumps(manifest) + "\n")

        if distributed.saving_group() is not None:
            self._pending = PendingCheckpoint(folder, training, complete)
            return
        if distributed.rank() == 0:
            with atomic_folder(folder) as temporary:
                save_file(_whole_state(training), temporary / STATE)
                complete(temporary)
            self._remove_older(folder)
        distributed.wait_for_all()

    def advance(self) -> None:
        """Completes what was begun if it is written by now; waits for nothing."""
        if self._pending is not None and self._pending.is_written:
            self.finish()

    def finish(self) -> None:
        """Returns when what was begun is written."""
        if self._pending is None:
            return
        self._pending.wait()
        if distributed.rank() == 0:
            self._remove_older(self._pending.folder)
        self._pending = None

    def _remove_older(self, newest: Path) -> None:
        for other in checkpoints(self.run):
            if other != newest:
                shutil.rmtree(other, ignore_errors=True)


def _whole_state(training: Training) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor
        for name, trainer in training.trainers.items()
        for key, tensor in trainer.state().items()
    }


def load_checkpoint(run: Path, training: Training) -> int:
    """Restores the newest checkpoint and returns its step; 0, and nothing is done, without any.

    Raises CrossproofError if it is damaged, or of other crosscoders, settings, model or text.
    """
    newest = _newest(run)
    if newest is None:
        return 0
    manifest = read_json(newest / MANIFEST)
    _check_origin(newest, manifest, training)
    try:
        for name, state in _states(newest, training).items():
            for key, tensor in state.items():
                if bool(tensor.isnan().any()):
                    raise CrossproofError(
                        f"'{name}/{key}' in {newest} holds NaN: it is damaged, train again."
                    )
            training.trainers[name].load_state(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CrossproofError(
            f"{newest} does not fit this configuration ({error}): train from the start."
        ) from error
    if manifest.get("step") != training.step:
        raise CrossproofError(
            f"{newest / MANIFEST} says step {manifest.get('step')}, the weights beside it are of "
            f"step {training.step}: it is damaged, train from the start."
        )
    return training.step


def _states(newest: Path, training: Training) -> dict[str, dict[str, Tensor]]:
    """Each trainer's state, this process's latents of it."""
    if is_sharded(newest):
        return load_parts(newest, training)
    tensors = read_tensors(newest / STATE)
    states = {}
    for name, trainer in training.trainers.items():
        prefix = f"{name}/"
        whole = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        states[name] = own_rows(trainer, whole)
    return states


def _newest(run: Path) -> Path | None:
    """The newest checkpoint that is whole: a folder can outlive files that a crash swallowed."""
    found = sorted(checkpoints(run))
    whole = [
        each
        for each in found
        if (each / MANIFEST).is_file() and ((each / STATE).is_file() or is_sharded(each))
    ]
    if found and not whole:
        raise CrossproofError(
            f"{found[-1]} lacks {MANIFEST} or {STATE}, and no other checkpoint is there: remove it "
            f"to train from the start."
        )
    if found and found[-1] != whole[-1]:
        warnings.warn(
            CrossproofWarning(f"{found[-1]} is not complete: resuming from {whole[-1].name}."),
            stacklevel=2,
        )
    return whole[-1] if whole else None


def checkpoints(run: Path) -> list[Path]:
    """The run's checkpoints; what else lies there is nobody's."""
    folders = (run / "checkpoints").glob("step-*")
    return [folder for folder in folders if folder.name.removeprefix("step-").isdecimal()]


def _origin(training: Training) -> dict[str, Any]:
    """What decides the steps to come, beside the tensors."""
    settings = config_to_dict(training.config) | {
        "objective": {name: dict(each.objective) for name, each in training.trainers.items()}
    }
    return {
        "model": training.model.weights_hash,
        "text": training.text_hash,
        "processes": distributed.world(),
        "config": {name: value for name, value in settings.items() if name not in MAY_CHANGE},
    }


def _check_origin(newest: Path, manifest: Mapping[str, Any], training: Training) -> None:
    if manifest.get("runs") != sorted(training.trainers):
        raise CrossproofError(
            f"{newest} holds the runs {manifest.get('runs')}, not {sorted(training.trainers)}: "
            f"resume with the configuration it was started with."
        )
    origin = _origin(training)
    # Settings first: another context cuts other rows out of the same text.
    changed = list(_differences(manifest.get("config", {}), origin["config"]))
    if changed:
        raise CrossproofError(
            f"config.json has other settings than {newest} was trained with ("
            f"{', '.join(changed)}): put them back, or train from the start with another --out."
        )
    before = manifest.get("processes", origin["processes"])  # older checkpoints do not say
    if before != origin["processes"] and not training.config.activations:
        raise CrossproofError(
            f"{newest} was trained by {before} process{'es' * (before > 1)}, which deal out the "
            f"text otherwise than {origin['processes']} do: start as many."
        )
    named = (
        ("model", training.model.name, "its contents"),
        ("text", training.config.text, "its contents or their tokens"),
    )
    for part, name, what in named:
        if manifest.get(part, origin[part]) != origin[part]:  # older checkpoints do not say
            raise CrossproofError(
                f"The {part} '{name}' is not what {newest} was trained on ({what} have "
                f"changed): bring that {part} back, or train from the start with another --out."
            )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Settings that were otherwise; what an older version did not have is passed over."""
    for name, value in before.items():
        other = now.get(name)
        if name != "objective" and isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(value, other)
        elif json.dumps(value) != json.dumps(other):
            yield f"{name} was {value}"
