"""`export`: crosscoders in other libraries' formats, where those hold what they compute."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch
from safetensors.torch import save_file

from crossproof.crosscoder.formats.foreign import HEADS, ForeignDictionary
from crossproof.crosscoder.formats.writers import EXPORTS
from crossproof.crosscoder.formats.writers.dictionary_files import Exported
from crossproof.crosscoder.formats.writers.separating import separated
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import atomic_folder


def export(
    crosscoder: Crosscoder | Mapping[str, Crosscoder],
    folder: str | Path,
    format: str,
    model_name: str = "",
) -> list[Path]:
    """Writes what `crosscoder` computes as dictionaries of another library; returns their folders.

    `format` is one of EXPORTS. A crosscoder of several hookpoints is taken apart where its latents
    allow it (joined SAEs, transcoders of several layers). Of several crosscoders each gets a folder
    of its name; for circuit-tracer they are one set. `model_name` is written into the files; by
    default what the crosscoder's provenance says. The library computes the same codes and
    reconstructions up to the rounding of float32 (docs/exporting.md). Raises CrossproofError, and
    writes nothing, for what the format cannot hold, an unknown format, and a folder that is not
    empty.
    """
    if format not in EXPORTS:
        raise CrossproofError(
            f"There is no export format '{format}': choose from {', '.join(EXPORTS)}."
        )
    target = Path(os.path.abspath(folder))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CrossproofError(
            f"{target} is not empty: choose a new folder to export into.", code="CP-OUT"
        )
    given = {"": crosscoder} if isinstance(crosscoder, Crosscoder) else dict(crosscoder)
    alone = len(given) == 1 or format == "circuit-tracer"
    groups: dict[str, list[ForeignDictionary]] = {}
    for name, each in given.items():
        source = f"The crosscoder '{name}'" if name else "The crosscoder"
        parts = groups.setdefault("" if alone else name, [])
        parts += _without_heads(separated(each, source))
        origin = each.provenance
        model_name = model_name or ("" if origin is None else origin.model)
    written = [
        replace(item, folder=os.path.join(name, item.folder))
        for name, dictionaries in groups.items()
        for item in _writer(format)(dictionaries, model_name)
    ]
    with atomic_folder(target) as temporary:
        for item in written:
            _write(temporary / item.folder, item)
    return [target / item.folder for item in written]


def _without_heads(dictionaries: list[ForeignDictionary]) -> list[ForeignDictionary]:
    """The same; CrossproofError if one reads what attention's heads put out."""
    for dictionary in dictionaries:
        if any(HEADS in str(hook) for hook in dictionary.hooks):
            raise CrossproofError(
                f"{dictionary.source} reads what attention's heads put out "
                f"({dictionary.hooks[0]}) and writes attention's output: no other library has such "
                f"a dictionary."
            )
    return dictionaries


def _writer(format: str) -> Callable[[Sequence[ForeignDictionary], str], list[Exported]]:
    name = format.replace("-", "_")
    module = import_module(f"crossproof.crosscoder.formats.writers.{name}")
    write: Callable[[Sequence[ForeignDictionary], str], list[Exported]] = module.write
    return write


def _write(folder: Path, item: Exported) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in item.files.items():
        if isinstance(content, str):
            (folder / name).write_text(content, encoding="utf-8")
        elif name.endswith(".pt"):
            torch.save({n: t.contiguous() for n, t in content.items()}, folder / name)
        else:
            save_file({n: t.contiguous() for n, t in content.items()}, folder / name)
