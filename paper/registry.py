"""The figures by name; their modules are imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol, cast, runtime_checkable

from crossproof import CrossproofError
from paper.drawing.charts import Chart
from paper.measuring.settings import FigureSettings

NAMES = (*(f"fig{number}" for number in range(1, 14)), "ablation", "anti-gaming")


@runtime_checkable
class FigureModule(Protocol):
    """What a figure's module has."""

    TITLE: str

    def compute(self, settings: FigureSettings) -> dict[str, Any]:
        """The figure's numbers, ready for JSON; writes nothing but the cache."""

    def charts(self, numbers: Mapping[str, Any]) -> dict[str, Chart]:
        """Its charts by name; `main` is published under the figure's own name."""

    def words(self, numbers: Mapping[str, Any]) -> str:
        """Markdown: what it shows, and tables."""


def available() -> list[str]:
    """The figures whose module exists, in the paper's order."""
    return [name for name in NAMES if find_spec(_module(name)) is not None]


def figure_module(name: str) -> FigureModule:
    """A figure's module; CrossproofError if there is none."""
    if name not in available():
        known = ", ".join(available())
        raise CrossproofError(f"There is no figure '{name}'; choose from {known}, or all.")
    return cast(FigureModule, importlib.import_module(_module(name)))


def _module(name: str) -> str:
    return f"paper.figures.{name.replace('-', '_')}"
