"""`import_dictionary`: finds what other libraries saved, and makes it a crosscoder."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossproof.crosscoder.folders import holds_crosscoders
from crossproof.crosscoder.formats.files import read_config
from crossproof.crosscoder.formats.fitting import fit
from crossproof.crosscoder.formats.foreign import ForeignDictionary
from crossproof.crosscoder.formats.joining import joined
from crossproof.crosscoder.formats.published import Located, located
from crossproof.crosscoder.formats.registry import FORMATS, DictionaryFormat
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import Provenance
from crossproof.errors import CrossproofError, first_line
from crossproof.files import refuse_pointer
from crossproof.lm.model import LanguageModel

CONFIGS = "cfg.json", "config.json", "config.yaml"
"""Names by which formats recognise a folder."""


class ImportNotice(UserWarning):
    """Something that a dictionary's files leave open, and how it was taken."""


def import_dictionary(
    path: str | Path | Sequence[str | Path],
    model: LanguageModel,
    hookpoints: str | Sequence[str] | None = None,
    format: str | None = None,
    centred: bool | None = None,
    scale: float | None = None,
) -> tuple[Crosscoder, Provenance]:
    """A crosscoder that computes what a dictionary saved by another library computes.

    `path` is one dictionary, a folder that holds several (anywhere below it), a place of the Hub
    ("hf:REPO@REVISION:FOLDER"), one of SAELens's releases ("saelens:RELEASE/ID"), or a list of
    those; several become one crosscoder, the union of their latents. `hookpoints`: where each
    dictionary reads and writes (an SAE: one, a transcoder: input and output, a crosscoder: all, in
    order), needed where its files do not say; `*` stands for its layer. `format` is told from the
    files unless given; `centred`, whether TransformerLens had centred the residual stream
    (`center_writing_weights`), and `scale`, what activations are multiplied by before they are
    encoded, likewise. docs/importing.md says what is exact and what is refused.
    Warns (`ImportNotice`) of what had to be assumed. Raises CrossproofError for what is missing,
    damaged, unknown, of another width, contradictory, or no crosscoder.
    """
    read = list(_read(path, model, hookpoints, format, centred, scale))
    return _crosscoder([dictionary for _, dictionary in read], model)


def import_dictionaries(
    path: str | Path | Sequence[str | Path],
    model: LanguageModel,
    hookpoints: str | Sequence[str] | None = None,
    format: str | None = None,
    centred: bool | None = None,
    scale: float | None = None,
) -> dict[str, tuple[Crosscoder, Provenance]]:
    """The same, but each dictionary a crosscoder of its own, by the name of its folder or file."""
    made: dict[str, tuple[Crosscoder, Provenance]] = {}
    for name, dictionary in _read(path, model, hookpoints, format, centred, scale):
        while name in made:
            name += "+"
        made[name] = _crosscoder([dictionary], model)
    return made


def _read(
    path: str | Path | Sequence[str | Path],
    model: LanguageModel,
    hookpoints: str | Sequence[str] | None,
    format: str | None,
    centred: bool | None,
    scale: float | None,
) -> Iterator[tuple[str, tuple[ForeignDictionary, dict[str, Any]]]]:
    """Each dictionary's name, the dictionary at hookpoints of the model, and where it is from."""
    paths = [path] if isinstance(path, str | Path) else list(path)
    hookpoints = [hookpoints] if isinstance(hookpoints, str) else hookpoints
    if not paths:
        raise CrossproofError("No dictionaries were given: name at least one folder or file.")
    if scale is not None and not 0 < scale < float("inf"):
        raise CrossproofError(f"The scale is {scale}: give a number above 0.")
    for place in (place for name in paths for place in located(name)):
        for kind, source in find_dictionaries(place.path, format or place.format):
            for foreign in FORMATS.get(kind).read(source):
                named = hookpoints or (place.hookpoints if None in foreign.hooks else None)
                factor = scale or place.scale
                if factor is None and foreign.scale_missing:
                    factor = place.scale_unsaid
                taken = place.centred if centred is None else centred
                dictionary, notices = fit(foreign, model, named, taken, factor)
                given = _path(Path(foreign.source), place)
                for notice in notices:
                    told = notice.replace(foreign.source, given)
                    warnings.warn(told, ImportNotice, stacklevel=4)
                name = _name(Path(foreign.source), place.path)
                yield name, (dictionary, _origin(dictionary, kind, place))


def _name(source: Path, base: Path) -> str:
    """What distinguishes a dictionary below `base`; the name of `base` if it is the only one."""
    parts = source.relative_to(base).parts or (os.path.basename(os.path.abspath(base)),)
    return re.sub(r"\.(pt|npz|safetensors)$", "", "-".join(parts)) or "imported"


def _origin(dictionary: ForeignDictionary, kind: str, place: Located) -> dict[str, Any]:
    """Where latents come from, for the provenance: plain values."""
    return {
        "format": kind,
        "path": _path(Path(dictionary.source), place),
        "latents": dictionary.n_latents,
        "hookpoints": list(dictionary.hooks),
        "centred": dictionary.centred,
        **dictionary.about,
    }


def _path(source: Path, place: Located) -> str:
    """The path as it was given; of the Hub, the place and commit, not where its cache lies."""
    if place.label is None or not source.is_relative_to(place.path):
        return str(source)
    inside = source.relative_to(place.path).as_posix()
    if inside == ".":
        return place.label
    return place.label + ("/" if place.label.count(":") > 1 else ":") + inside


def _crosscoder(
    dictionaries: Sequence[tuple[ForeignDictionary, dict[str, Any]]], model: LanguageModel
) -> tuple[Crosscoder, Provenance]:
    crosscoder = joined([dictionary for dictionary, _ in dictionaries], model)
    training = {"imported": [origin for _, origin in dictionaries], "objective": {}}
    return crosscoder, Provenance(model.name, model.weights_hash, 0, training)


def find_dictionaries(path: Path, format: str | None = None) -> list[tuple[str, Path]]:
    """Every dictionary at or below `path` with its format, in natural order (layer 2 before 10).

    Raises CrossproofError if there is nothing there, nothing that is recognised, no such format,
    or a folder that cannot be read.
    """
    names = FORMATS.names() if format is None else (format,)
    formats = {name: FORMATS.get(name) for name in names}
    try:
        if not path.exists():
            raise CrossproofError(f"There is no file or folder {path}: check the path.")
        if format is not None and path.is_file():
            return [(format, path)]
        dictionaries = list(_search(path, formats, ()))
    except OSError as error:
        raise CrossproofError(f"{path} cannot be searched ({first_line(error)}).") from error
    if not dictionaries and holds_crosscoders(path):
        raise CrossproofError(
            f"{path} holds crossproof's own crosscoders: every command takes it as it is."
        )
    if not dictionaries:
        folder = path.parent
        if path.is_file() and any(known.recognise(folder) for known in formats.values()):
            raise CrossproofError(
                f"{path} is a file of the dictionary in {folder}: give the folder."
            )
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            refuse_pointer(file)  # a configuration that no format can be recognised by
        raise CrossproofError(
            f"{path} holds no dictionary that crossproof recognises ({', '.join(formats)}): give "
            f"the folder that the library saved."
        )
    return dictionaries


def _search(
    path: Path, formats: Mapping[str, DictionaryFormat], above: tuple[Path, ...]
) -> Iterator[tuple[str, Path]]:
    """`above`: the folders on the way; a link back to one of them is not followed."""
    name = next((name for name, known in formats.items() if known.recognise(path)), None)
    if name is not None:
        yield name, path
    elif path.is_dir() and (real := path.resolve()) not in above:
        for config in filter(Path.is_file, map(path.joinpath, CONFIGS)):
            read_config(config)  # one that is damaged is not passed over
        folders = (p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        for folder in sorted(folders, key=_natural):
            yield from _search(folder, formats, (*above, real))


def _natural(path: Path) -> list[Any]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]
