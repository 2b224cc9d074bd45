"""`crossproof export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.commands.early import loading
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.errors import CrossproofError, nearest
from crossproof.working import working


@dataclass(frozen=True)
class Export:
    """Write finished crosscoders as dictionaries of another library.

    The library then computes the same codes and reconstructions, up to the rounding of float32;
    what its files cannot hold is refused with the reason. A crosscoder of several hookpoints is
    taken apart where its latents allow it:

      crossproof export runs/mine --format saelens --out exported/mine
      crossproof export runs/demo --format dictionary_learning --name penalised --out exported/demo
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train` or `crossproof import`, or one crosscoder's own."""
    format: Literal["saelens", "dictionary_learning", "sparsify", "circuit-tracer"]
    """The library that is to read it."""
    out: Path
    """A new folder to write."""
    name: tuple[str, ...] = ()
    """Which of the run's crosscoders; all, unless given, each in a folder of its name (for
    circuit-tracer they are the layers of one set)."""


def run(arguments: Sequence[str], began: float) -> None:
    """Writes the folder and says what is in it."""
    options: Export = parse(Export, "export", arguments)
    folders = finished_crosscoders(options.run)
    names = options.name or tuple(folders)
    for name in names:
        if name not in folders:
            raise CrossproofError(
                f"{options.run} has no crosscoder '{name}'.{nearest(name, folders)}",
                code="CP-NAME",
            )
    with loading():
        from crossproof.crosscoder import Crosscoder
        from crossproof.crosscoder.formats import export

    crosscoders = {name: Crosscoder.from_pretrained(folders[name]) for name in names}
    with working("writing dictionaries"):
        paths = export(crosscoders, options.out, options.format)
    for path in paths:
        print(f"{options.format}: {path}")
    print(f"Next: {options.format} loads what is there as its own (docs/exporting.md).")
