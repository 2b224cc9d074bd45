"""Where else what a training logs may go: TensorBoard, Weights & Biases, Trackio, or yours.

`metrics.jsonl` is written always and is what everything else reads; sinks are for people who watch
many runs. None of them talks to a server unless its own settings say so.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from crossproof.extras import needed
from crossproof.registry import Registry

PROJECT = "crossproof"
"""What runs are filed under, where the sink's own variables say nothing else."""


PACKAGES = "tensorboard", "wandb", "trackio"
"""Built-in sinks are called as the packages, and extras, that they need."""


@runtime_checkable
class Sink(Protocol):
    """Takes the figures of every logged step of one run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The figures of all the run's dictionaries at a step, by NAME/FIGURE."""

    def close(self) -> None:
        """The run has stopped or ended."""


MakeSink = Callable[[Path, Mapping[str, Any], int], Sink]
"""Of the run's folder, its configuration as plain values, and the steps that were taken before."""

SINKS: Registry[MakeSink] = Registry("sink", "crossproof.sinks")
"""All sinks by name; an entry point of the group names a `MakeSink`."""


def register_sink(name: str, make: MakeSink | str) -> None:
    """Adds a place for figures: `crossproof train --log NAME`.

    `make` is called when a run starts or goes on, or names where to import it from
    ("package.module:function"). Raises CrossproofError if another sink has the name.
    """
    SINKS.register(name, make)


def check_sinks(names: Sequence[str]) -> None:
    """Raises CrossproofError for a sink that is unknown, or whose package is not installed."""
    for name in names:
        SINKS.check(name)
        if name in PACKAGES and find_spec(name) is None:
            needed(name, name, f"--log {name}")


def open_sinks(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], step: int
) -> list[Sink]:
    """The named sinks of a run; raises CrossproofError as `check_sinks`."""
    check_sinks(names)
    return [SINKS.get(name)(folder, config, step) for name in dict.fromkeys(names)]


class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`.

    Steps that a resumed run takes again take the place of those of before.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """As `Sink.write`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """As `Sink.close`."""
        self.writer.close()


class Tracked:
    """A run of Weights & Biases or of Trackio, whose interfaces are the same as far as this goes.

    A resumed run goes on with the same one.
    """

    def __init__(self, package: str, settings: Mapping[str, Any]) -> None:
        self.module = importlib.import_module(package)
        self.module.init(**settings)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """As `Sink.write`."""
        self.module.log(dict(values), step=step)

    def close(self) -> None:
        """As `Sink.close`."""
        self.module.finish()


def wandb(folder: Path, config: Mapping[str, Any], _step: int) -> Sink:
    """Offline in RUN/wandb, to be sent with `wandb sync`, unless WANDB_MODE says otherwise."""
    settings = {
        "project": os.environ.get("WANDB_PROJECT", PROJECT),
        "name": folder.name,
        "id": _id(folder),
        "resume": "allow",
        "dir": str(folder),
        "config": dict(config),
        "mode": os.environ.get("WANDB_MODE", "offline"),
    }
    return Tracked("wandb", settings)


def trackio(folder: Path, config: Mapping[str, Any], _step: int) -> Sink:
    """On this machine, where `trackio show` finds it, unless TRACKIO_SPACE_ID says otherwise."""
    settings = {
        "project": os.environ.get("TRACKIO_PROJECT", PROJECT),
        "name": f"{folder.name}-{_id(folder)}",
        "resume": "allow",
        "config": dict(config),
    }
    return Tracked("trackio", settings)


def _id(folder: Path) -> str:
    """The same for the same folder, so that a resumed run is the same run."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]


register_sink("tensorboard", TensorBoard)
register_sink("wandb", wandb)
register_sink("trackio", trackio)
