"""`import_dictionary`: finds what other libraries saved, and makes it a crosscoder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.joining import joined
from crossproof.crosscoder.formats.places import placed
from crossproof.crosscoder.formats.registry import FORMATS, DictionaryFormat
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import Provenance
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


def import_dictionary(
    path: str | Path | Sequence[str | Path],
    model: LanguageModel,
    hookpoints: Sequence[str] | None = None,
    format: str | None = None,
) -> tuple[Crosscoder, Provenance]:
    """A crosscoder that computes what a dictionary saved by another library computes.

    `path` is one dictionary, a folder that holds several (anywhere below it), or a list of those;
    several become one crosscoder, the union of their latents. `hookpoints`: where each dictionary
    reads and writes (an SAE: one, a transcoder: input and output, a crosscoder: all, in order),
    needed where its files do not say; `*` stands for its layer. `format` is told from the files
    unless given. docs/importing.md says what is exact and what is refused. Raises CrossproofError
    for what is missing, damaged, unknown, of another width, or no crosscoder.
    """
    every = list(_read(path, model, hookpoints, format))
    return _made(every, model)


def import_dictionaries(
    path: str | Path | Sequence[str | Path],
    model: LanguageModel,
    hookpoints: Sequence[str] | None = None,
    format: str | None = None,
) -> dict[str, tuple[Crosscoder, Provenance]]:
    """The same, but each dictionary a crosscoder of its own, by the name of its folder or file."""
    made: dict[str, tuple[Crosscoder, Provenance]] = {}
    for dictionary in _read(path, model, hookpoints, format):
        name = dictionary.name
        while name in made:
            name += "+"
        made[name] = _made([dictionary], model)
    return made


@dataclass(frozen=True, eq=False)
class ImportedDictionary:
    """A dictionary at hookpoints of the model, and where it came from."""

    name: str
    format: str
    foreign: ForeignDictionary


def _read(
    path: str | Path | Sequence[str | Path],
    model: LanguageModel,
    hookpoints: Sequence[str] | None,
    format: str | None,
) -> Iterator[ImportedDictionary]:
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise CrossproofError("No dictionaries were given: name at least one folder or file.")
    for base in map(Path, paths):
        for kind, where in find_dictionaries(base, format):
            for foreign in FORMATS.get(kind).read(where):
                name = _name(Path(foreign.source), base)
                yield ImportedDictionary(name, kind, placed(foreign, model, hookpoints))


def _name(source: Path, base: Path) -> str:
    """What distinguishes a dictionary below `base`; the name of `base` if it is the only one."""
    parts = source.relative_to(base).parts or (base.resolve().name,)
    return re.sub(r"\.(pt|npz|safetensors)$", "", "-".join(parts))


def _made(
    every: Sequence[ImportedDictionary], model: LanguageModel
) -> tuple[Crosscoder, Provenance]:
    crosscoder = joined([dictionary.foreign for dictionary in every], model)
    training = {"imported": [_origin(dictionary) for dictionary in every], "objective": {}}
    return crosscoder, Provenance(model.name, model.weights_hash, 0, training)


def find_dictionaries(path: Path, format: str | None = None) -> list[tuple[str, Path]]:
    """Every dictionary at or below `path` with its format, in natural order (layer 2 before 10).

    Raises CrossproofError if there is nothing there, nothing that is recognised, or no such
    format.
    """
    names = FORMATS.names() if format is None else (format,)
    formats = {name: FORMATS.get(name) for name in names}
    if not path.exists():
        raise CrossproofError(f"There is no file or folder {path}: check the path.")
    if format is not None and path.is_file():
        return [(format, path)]
    dictionaries = list(_search(path, formats))
    if not dictionaries:
        raise CrossproofError(
            f"{path} holds no dictionary that crossproof recognises ({', '.join(formats)}): give "
            f"the folder that the library saved."
        )
    return dictionaries


def _search(path: Path, formats: Mapping[str, DictionaryFormat]) -> Iterator[tuple[str, Path]]:
    name = next((name for name, known in formats.items() if known.recognise(path)), None)
    if name is not None:
        yield name, path
    elif path.is_dir():
        folders = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        for folder in sorted(folders, key=_natural):
            yield from _search(folder, formats)


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _origin(dictionary: ImportedDictionary) -> dict[str, Any]:
    """Where latents come from, for the provenance: plain values."""
    return {
        "format": dictionary.format,
        "path": dictionary.foreign.source,
        "latents": dictionary.foreign.n_latents,
        "hookpoints": list(dictionary.foreign.hooks),
        **dictionary.foreign.about,
    }
