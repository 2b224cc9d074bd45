"""Finished crosscoders in a folder. Imports nothing heavy: commands ask before PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

from crossproof.errors import CrossproofError

WEIGHTS = "crosscoder.safetensors"
OTHERS = re.compile(
    r"attribution|audit|checkpoints|clusters|crosscoder|explorer|measure|together|.*\.(json|html)",
    re.IGNORECASE,
)
"""What else commands write into a run folder: no crosscoder can be called so."""


def finished_crosscoders(path: Path) -> dict[str, Path]:
    """The folder of each finished crosscoder by its name, the unpenalised one first.

    `path` is a run folder, one dictionary's folder in it (RUN/penalised), or a crosscoder's own.
    Raises CrossproofError if there is no such folder or it holds none.
    """
    if not path.is_dir():
        raise CrossproofError(
            f"There is no folder {path}: give a run folder written by `crossproof train` or "
            f"`crossproof import`, or make one with `crossproof demo`."
        )
    if (path / WEIGHTS).exists():
        return {"crosscoder": path}
    if own_folder(path) != path:
        return {path.resolve().name: own_folder(path)}
    folders = [f for depth in ("*", "*/*", "*/*/*") for f in path.glob(f"{depth}/crosscoder")]
    below = {each.parent.relative_to(path).as_posix(): each for each in folders}
    if not below:
        raise CrossproofError(
            f"No finished crosscoder in {path}: give a run folder written by `crossproof train` "
            f"(resume it if it was stopped)."
        )
    order = sorted(below, key=lambda name: (not name.startswith("unpenalised"), _natural(name)))
    return {name: below[name] for name in order}


def holds_crosscoders(path: Path) -> bool:
    """Whether `finished_crosscoders` finds any."""
    try:
        return bool(finished_crosscoders(path))
    except CrossproofError:
        return False


def own_folder(path: Path) -> Path:
    """The folder of a crosscoder that a run gave this folder to; else the path itself."""
    inside = path / "crosscoder"
    alone = not (path / WEIGHTS).exists() and (inside / WEIGHTS).exists()
    return inside if alone else path


def _natural(name: str) -> list[int | str]:
    """Block 2 before block 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
