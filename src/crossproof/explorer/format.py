"""The store's folder: which files it holds, and what its manifest says of them."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossproof.activations.corpus import TextSlice
from crossproof.errors import CrossproofError
from crossproof.files import read_json
from crossproof.result import Result
from crossproof.tables import Row, Table

SCHEMA = 3
STORE, BUILDING = "explorer", "explorer.part"
"""Folders below the run: the finished store, and one that is being built."""
MANIFEST = "manifest.json"
LATENTS, PAIRS = "latents.arrow", "pairs.arrow"
"""Tables with a row for each latent and each pair whose figures are kept."""
PAGES = {
    "latent": "latent-pages.arrow",
    "pair": "pair-pages.arrow",
    "neuron": "neuron-pages.arrow",
    "map": "map.arrow",
}
"""Pages: a number, and a JSON document compressed by zlib. A map has the number 0."""
ROWS = 64
"""Pages that are written together."""
_PART = 1 << 20


@dataclass(frozen=True)
class DictionaryFacts:
    """One dictionary of a store."""

    name: str
    latents: int
    dead: int
    tokens: int
    """Read for figures and contexts of latents."""
    pair_tokens: int
    """Of those, at which interactions were measured."""
    detail_tokens: int
    """Read again, for pairs and neurons."""
    pairs: int
    pairs_complete: bool
    """Whether the table of pairs was chosen from every pair that occurred."""
    described: int
    """Pairs with a page."""
    neurons: dict[str, int]
    """By block."""
    forms: list[str]
    gated: bool
    views: dict[str, str]
    """By block, where its MLP reads the dictionary."""
    hookpoints: list[str]
    joint: bool
    """Whether they are those of two models."""
    totals: dict[str, float]
    """By form: the mean over tokens and blocks, as `measure` has it."""
    logits: str
    """The hookpoint whose vectors promote tokens, or why none do."""
    unread: str
    """Why no MLP reads the dictionary; "" if some do."""
    objective: str = ""
    figures: dict[str, list[float]] = field(default_factory=dict)
    """By name, a figure of the run's results.json with the ends of its interval."""
    curve: dict[str, Any] = field(default_factory=dict)
    """The activation function: its name, and x and y to draw it by."""


@dataclass(frozen=True)
class FileFacts:
    """What shows whether a file is still as it was written."""

    size: int
    """Bytes."""
    crc32: int

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Those of a file as it is now."""
        checksum, size = 0, 0
        with path.open("rb") as file:
            while part := file.read(_PART):
                checksum, size = zlib.crc32(part, checksum), size + len(part)
        return cls(size, checksum)


@dataclass(frozen=True, repr=False)
class Manifest(Result):
    """manifest.json of a store."""

    model: str
    model_hash: str
    text: TextSlice
    dictionaries: tuple[DictionaryFacts, ...]
    files: dict[str, FileFacts]
    """Every file below the store, by its path."""
    seconds: float = 0.0
    schema: int = SCHEMA

    @property
    def digest(self) -> str:
        """The same of two stores only if their files are the same."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()

    def shown(self) -> dict[str, Any]:
        """What pages are told: no files, and of local paths their last part alone."""
        content = self.to_json()
        del content["files"]
        content["model"] = _last_part(self.model)
        content["text"]["text"] = _last_part(self.text.text)
        return content

    def tables(self) -> list[Table]:
        """A row for each dictionary."""
        columns = ("latents", "dead", "tokens", "pairs", "pairs with a page")
        rows = [
            Row(each.name, (each.latents, each.dead, each.tokens, each.pairs, each.described))
            for each in self.dictionaries
        ]
        return [Table("Explorer", columns, tuple(rows), corner="dictionary")]


def _last_part(name: str) -> str:
    parts = [Path(part) for part in name.split(", ")]
    return ", ".join(part.name if part.is_absolute() else str(part) for part in parts)


def read_manifest(run: Path) -> Manifest:
    """The manifest of a run's store.

    Raises CrossproofError if there is none, or it is damaged, cut off or of another version.
    """
    folder = run / STORE
    if not (folder / MANIFEST).is_file():
        raise CrossproofError(f"{run} has no explorer store: make it, `crossproof explore {run}`.")
    schema = read_json(folder / MANIFEST).get("schema")
    if schema != SCHEMA:
        raise CrossproofError(
            f"The explorer store in {run} has schema {schema!r}, and this version reads schema "
            f"{SCHEMA}: build it again, `crossproof explore {run} --rebuild`."
        )
    try:
        manifest = Manifest.load(folder / MANIFEST)
    except CrossproofError as error:
        raise damaged(run, MANIFEST) from error
    for name, facts in manifest.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise damaged(run, MANIFEST)
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts.size:
            raise damaged(run, name)
    return manifest


def damaged(run: Path, name: str) -> CrossproofError:
    """What to say of a file that cannot be read."""
    return CrossproofError(
        f"The explorer store in {run} is damaged ({name}): build it again, `crossproof explore "
        f"{run} --rebuild`."
    )
