"""Finished crosscoders in a folder. Imports nothing heavy: commands ask before PyTorch."""

from __future__ import annotations

from pathlib import Path

from crossproof.errors import CrossproofError

WEIGHTS = "crosscoder.safetensors"


def finished_crosscoders(path: Path) -> dict[str, Path]:
    """The folder of each finished crosscoder by its name, the unpenalised one first.

    `path` is a run folder, or a crosscoder's own. Raises CrossproofError if there is no such folder
    or it holds none.
    """
    if not path.is_dir():
        raise CrossproofError(
            f"There is no folder {path}: give a run folder written by `crossproof train` or "
            f"`crossproof import`."
        )
    if (path / WEIGHTS).exists():
        return {"crosscoder": path}
    below = {each.parent.name: each for each in path.glob("*/crosscoder")}
    if not below:
        raise CrossproofError(
            f"No finished crosscoder in {path}: give a run folder written by `crossproof train` "
            f"(resume it if it was stopped)."
        )
    return {name: below[name] for name in sorted(below, key=lambda n: (n != "unpenalised", n))}
