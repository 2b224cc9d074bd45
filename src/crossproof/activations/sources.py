"""How a source of documents is spelt: a file or a data set, and which part of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crossproof.errors import CrossproofError, nearest

DATASETS_PREFIX = "hf:"
LINES = (".txt", ".jsonl")
"""Endings of files that are read line by line; they may be compressed."""
COMPRESSED = (".gz", ".bz2", ".xz")
TABLES = (".json", ".csv", ".parquet", ".arrow")
"""Endings of files that hold a table."""

_OPTION = re.compile(r",(config|split|column)=([^,]+)$")


@dataclass(frozen=True)
class DocumentSource:
    """Where documents are: "NAME" or "hf:NAME", then any of ",config=", ",split=", ",column="."""

    name: str
    """A file; of "hf:", a folder or the id of a data set."""
    data_set: bool = False
    config: str | None = None
    """The configuration of a data set."""
    split: str = "train"
    """The split of a data set."""
    column: str = "text"
    """The column of a table, or the field of a line of jsonl, that holds the text."""

    @classmethod
    def parse(cls, source: str | Path) -> DocumentSource:
        """The parts of a source; CrossproofError where an option does not suit it."""
        name, options = os.fspath(source), {}
        while option := _OPTION.search(name):
            options[option[1]], name = option[2], name[: option.start()]
        data_set = name.startswith(DATASETS_PREFIX)
        made = cls(name.removeprefix(DATASETS_PREFIX), data_set, **options)
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
        return self.data_set or self.kind in (*LINES, *TABLES)

    def __str__(self) -> str:
        return (DATASETS_PREFIX if self.data_set else "") + self.name


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
