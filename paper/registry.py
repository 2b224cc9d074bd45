"""The figures by name; their modules are imported when they are asked for."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Protocol, cast, runtime_checkable

from crossproof.errors import CrossproofError, nearest
from paper.figure import Figure
from paper.settings import Settings

NAMES = (*(f"fig{number}" for number in range(1, 14)), "ablation", "anti-gaming")


@runtime_checkable
class Experiment(Protocol):
    """What a figure's module has."""

    TITLE: str

    def run(self, settings: Settings) -> Figure:
        """Computes the figure; writes nothing but the cache."""


def available() -> list[str]:
    """The figures whose module exists, in the paper's order."""
    return [name for name in NAMES if find_spec(_module(name)) is not None]


def experiment(name: str) -> Experiment:
    """A figure's module; CrossproofError if there is none."""
    if name not in available():
        known = ", ".join(available())
        raise CrossproofError(
            f"There is no figure '{name}'; choose from {known}, or all.{nearest(name, available())}"
        )
    return cast(Experiment, importlib.import_module(_module(name)))


def _module(name: str) -> str:
    return f"paper.{name.replace('-', '_')}"
