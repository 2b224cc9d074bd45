"""How a source of documents is spelt: files or a data set, and which part of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crossproof.errors import CrossproofError, nearest

DATASETS_PREFIX = "hf:"
LINES = (".txt", ".jsonl")
"""Endings of files that are read line by line; they may be compressed."""
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TABLES = (".json", ".csv", ".parquet", ".arrow")
"""Endings of files that hold a table."""
OTHER_LINES = (".ndjson", ".tsv")

_OPTION = re.compile(r",(config|split|column|weight)=([^,]+)$")
_PARTS = re.compile(r":(?![^\[]*\])")
"""Between the parts of NAME:CONFIG:SPLIT; the colon of train[:10%] is none."""
_SPLITS = re.compile(r"(train|test|valid|validation|dev|all)\b")
_JOINED = " + "


@dataclass(frozen=True)
class DocumentSource:
    """Where documents are: "NAME" or "hf:NAME[:CONFIG][:SPLIT]", then "#COLUMN".

    Configuration, split and column can be named instead, by ",config=", ",split=", ",column=".
    """

    name: str
    """A file or a pattern of files; of "hf:", a folder or the id of a data set."""
    data_set: bool = False
    config: str | None = None
    """The configuration of a data set."""
    split: str = "train"
    """The split of a data set."""
    column: str = "text"
    """The column of a table, or the field of a line of jsonl, that holds the text."""
    weight: float | None = None
    """Its share beside other sources."""

    @classmethod
    def parse_all(cls, source: str | Path) -> list[DocumentSource]:
        """The sources that " + " joins; CrossproofError where some have weights and others none."""
        text = os.fspath(source)
        parts = [text] if os.path.lexists(text) else text.split(_JOINED)
        sources = [cls.parse(part.strip() if len(parts) > 1 else part) for part in parts]
        if len({each.weight is None for each in sources}) > 1:
            raise CrossproofError(f"Of '{source}' some sources have a weight: give all one.")
        return sources

    @classmethod
    def parse(cls, source: str | Path) -> DocumentSource:
        """The parts of one source; CrossproofError where an option does not suit it."""
        name, options = os.fspath(source), {}
        while option := _OPTION.search(name):
            options[option[1]], name = option[2], name[: option.start()]
        if "#" in name and not _is_there(name):
            name, _, options["column"] = name.rpartition("#")
        data_set = name.startswith(DATASETS_PREFIX) or _is_folder(name)
        name = name.removeprefix(DATASETS_PREFIX)
        if data_set and not _is_there(name):
            name, *parts = _PARTS.split(name)
            options = _named(parts, source) | options
        weight = _weight(options.pop("weight", None), source)
        made = cls(name, data_set, weight=weight, **options)
        if not data_set and {"config", "split"} & set(options):
            raise CrossproofError(
                f"'{name}' is a file: only a data set ({DATASETS_PREFIX}NAME) has configurations "
                f"and splits."
            )
        if made.kind == ".txt" and "column" in options:
            raise CrossproofError(f"'{name}' is plain text, without columns: leave out ',column='.")
        return made

    @property
    def kind(self) -> str:
        """The ending that says how a file is read (".txt" of "a.txt.gz"); "" of a data set."""
        return "" if self.data_set else ending(self.name)

    @property
    def known(self) -> bool:
        """Whether this can hold documents, as far as its name tells."""
        return self.data_set or self.kind in (*LINES, *TABLES, *OTHER_LINES)

    @property
    def files(self) -> list[Path]:
        """The file, or those that the pattern matches, in the order of their names."""
        if os.path.isfile(self.name) or not glob.has_magic(self.name):
            return [Path(self.name)] if os.path.isfile(self.name) else []
        matched = sorted(glob.glob(self.name, recursive=True))
        return [Path(each) for each in matched if os.path.isfile(each)]

    def __str__(self) -> str:
        return (DATASETS_PREFIX if self.data_set else "") + self.name


def _is_there(name: str) -> bool:
    return os.path.lexists(os.path.expanduser(name))


def _is_folder(name: str) -> bool:
    return bool(name) and os.path.isdir(name)


def _named(parts: list[str], source: str | Path) -> dict[str, str]:
    """Configuration and split by position: a single one is a split if it is called like one."""
    if len(parts) > 2:
        raise CrossproofError(f"'{source}' has too many colons: write hf:NAME:CONFIG:SPLIT.")
    if len(parts) == 1 and _SPLITS.match(parts[0]):
        parts = ["", *parts]
    return {key: part for key, part in zip(("config", "split"), parts, strict=False) if part}


def _weight(text: str | None, source: str | Path) -> float | None:
    if text is None:
        return None
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise CrossproofError(f"The weight '{text}' of '{source}' is no number above 0: mend it.")
    return weight


def ending(name: str) -> str:
    """What says how a file is read, less that of a compression, in small letters."""
    path = Path(name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def other_columns(missing: str, columns: Iterable[str]) -> str:
    """Sentences that name the columns there are and how to choose one."""
    names = sorted(columns)
    if not names:
        return ""
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return f" It has: {shown}.{nearest(missing, names)} Name another by ',column=NAME'."
