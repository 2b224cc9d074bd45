"""Checkpoints of a run: all its trainers at one step, in a folder of safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder, read_json, read_tensors
from crossproof.training.trainer import Trainer

STATE, MANIFEST = "training.safetensors", "checkpoint.json"


def save_checkpoint(run: Path, trainers: dict[str, Trainer], step: int) -> None:
    """Writes `run/checkpoints/step-N` atomically, then removes older ones."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    tensors = {
        f"{name}/{key}": tensor
        for name, trainer in trainers.items()
        for key, tensor in trainer.state().items()
    }
    with atomic_folder(folder) as temporary:
        save_file(tensors, temporary / STATE)
        manifest: dict[str, Any] = {"step": step, "runs": sorted(trainers)}
        (temporary / MANIFEST).write_text(json.dumps(manifest) + "\n")
    for other in folder.parent.glob("step-*"):
        if other != folder:
            shutil.rmtree(other)


def load_checkpoint(run: Path, trainers: dict[str, Trainer]) -> int:
    """Restores the newest checkpoint into `trainers` and returns its step.

    Raises CrossproofError if there is none, or it is damaged or of other runs.
    """
    folders = sorted((run / "checkpoints").glob("step-*"))
    if not folders:
        raise CrossproofError(f"{run} holds no checkpoint to resume from: train it from the start.")
    manifest = read_json(folders[-1] / MANIFEST)
    if manifest.get("runs") != sorted(trainers):
        raise CrossproofError(
            f"{folders[-1]} holds the runs {manifest.get('runs')}, not {sorted(trainers)}: resume "
            f"with the configuration it was started with."
        )
    tensors = read_tensors(folders[-1] / STATE)
    for name, trainer in trainers.items():
        prefix = f"{name}/"
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        try:
            trainer.load_state(state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CrossproofError(
                f"{folders[-1]} does not fit this configuration ({error}): train from the start."
            ) from error
    return int(manifest["step"])
