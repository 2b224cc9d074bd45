"""Asks a finished store: pages by number, latents and pairs by any figure or word."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crossproof.errors import CrossproofError
from crossproof.explorer.arrow import Pages, read_table
from crossproof.explorer.format import (
    LATENTS,
    PAGES,
    PAIRS,
    STORE,
    DictionaryFacts,
    FileFacts,
    Manifest,
    damaged,
    read_manifest,
)
from crossproof.extras import needed

T = TypeVar("T")
MOST_ROWS = 500
"""Rows of one answer."""
MOST_SECONDS = 10.0
"""An answer that takes longer is given up."""
SORTS: Mapping[str, Sequence[str]] = {
    LATENTS: (
        *("latent", "active", "frequency", "mean", "largest", "interaction", "owned"),
        *("partners", "strongest", "relative_norm", "cluster", "label", "explanation"),
    ),
    PAIRS: ("h", "k", "coactive", "block", "per_token", "i", "second", "q", "difference"),
}
"""Columns by which rows can be sorted and, where they are numbers, limited."""
_ORDERS = 16
"""Questions whose rows stay in order for the next part of the answer."""
_SETTINGS = (
    "threads = 2",
    "memory_limit = '1GB'",
    "enable_external_access = false",
    "lock_configuration = true",
)
"""DuckDB asks tables that are given to it, and opens no file of its own."""
_TEXTS = ("label", "explanation")
_SHOWN = {
    LATENTS: (*SORTS[LATENTS], "snippet"),
    PAIRS: (*SORTS[PAIRS], "described"),
}


@dataclass(frozen=True)
class RowsQuestion:
    """Which rows of a table are wanted, and in which order."""

    text: str = ""
    """A number of a latent, or words that must stand in its contexts, label or explanation."""
    sort: str = ""
    descending: bool = True
    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)
    first: int = 0
    rows: int = 100


class Store:
    """A run's store, open to be read; several threads may ask at once.

    Raises CrossproofError if there is none, it is damaged or of another version, or DuckDB is not
    installed.
    """

    def __init__(self, run: Path) -> None:
        duckdb = needed("duckdb", "explore", "the explorer")
        self.run = run
        self.manifest: Manifest = read_manifest(run)
        self._error: type[Exception] = duckdb.Error
        self._connection = duckdb.connect()
        for setting in _SETTINGS:
            self._connection.execute(f"SET {setting}")
        # Of each object, so that a store that is dropped takes its tables along.
        self._pages = lru_cache(None)(self._open_pages)
        self._tables = lru_cache(None)(self._open_table)
        self._order = lru_cache(_ORDERS)(self._ask_order)

    @property
    def dictionaries(self) -> tuple[DictionaryFacts, ...]:
        """What the manifest says of each dictionary."""
        return self.manifest.dictionaries

    def open(self) -> None:
        """Opens and checks what first questions need, so that no reader waits for it.

        Raises CrossproofError if it is damaged.
        """
        for number in range(len(self.dictionaries)):
            self.rows(number, LATENTS, RowsQuestion(rows=1))
            self._pages(number, "latent")

    def number(self, name: str | int) -> int:
        """Which dictionary is meant; CrossproofError if there is no such one."""
        if isinstance(name, int) or name.isdecimal():
            at = int(name)
            if at < len(self.dictionaries):
                return at
        for at, each in enumerate(self.dictionaries):
            if each.name == name:
                return at
        names = ", ".join(each.name for each in self.dictionaries)
        raise CrossproofError(f"There is no dictionary '{name}' in this store: choose {names}.")

    def page(self, dictionary: int, kind: str, number: int) -> dict[str, Any]:
        """A page as plain values; errors as `packed_page`."""
        page: dict[str, Any] = json.loads(
            zlib.decompress(self.packed_page(dictionary, kind, number))
        )
        return page

    def packed_page(self, dictionary: int, kind: str, number: int) -> bytes:
        """A page as it lies in the store: JSON compressed by zlib.

        Raises CrossproofError if there is no such page, or the store is damaged.
        """
        if kind not in PAGES:
            raise CrossproofError(f"There are no pages of {kind}s: {', '.join(PAGES)}.")
        try:
            packed = self._pages(dictionary, kind).packed(number)
        except zlib.error as error:
            raise damaged(self.run, PAGES[kind]) from error
        if packed is None:
            raise CrossproofError(_no_page(self.dictionaries[dictionary], kind, number))
        return packed

    def packed_pages(self, dictionary: int, kind: str) -> Iterator[tuple[int, bytes]]:
        """All pages of a kind with their numbers, which ascend."""
        return iter(self._pages(dictionary, kind))

    def rows(self, dictionary: int, table: str, question: RowsQuestion) -> dict[str, Any]:
        """Rows of a table as lists, and how many there are in all.

        Raises CrossproofError for a column that the table does not have.
        """
        order = self._order(dictionary, table, *_query(table, question))
        first = max(question.first, 0)
        chosen = order[first : first + min(max(question.rows, 0), MOST_ROWS)]
        return self._shown(dictionary, table, chosen) | {"total": len(order)}

    def table(self, dictionary: int, name: str, most: int = 2**31) -> dict[str, Any]:
        """A whole table as an answer of `rows`: latents by number, pairs strongest first."""
        count = min(most, len(self._tables(dictionary, name)[1]))
        return self._shown(dictionary, name, np.arange(count)) | {"total": count}

    def texts(self, dictionary: int) -> list[str]:
        """The contexts of every latent in small letters, in which searches look for words."""
        found: list[str] = self._tables(dictionary, LATENTS)[0].column("text").to_pylist()
        return found

    def _shown(self, dictionary: int, name: str, chosen: NDArray[np.int64]) -> dict[str, Any]:
        rows = self._tables(dictionary, name)[1].take(pa.array(chosen))
        columns = [rows.column(each).to_pylist() for each in _SHOWN[name]]
        listed = [list(row) for row in zip(*columns, strict=True)]
        return {"columns": list(_SHOWN[name]), "rows": listed}

    def _path(self, dictionary: int, name: str) -> Path:
        return self.run / STORE / str(dictionary) / name

    def _open_pages(self, dictionary: int, kind: str) -> Pages:
        return self._opened(Pages.read, dictionary, PAGES[kind])

    def _open_table(self, dictionary: int, name: str) -> tuple[pa.Table, pa.Table]:
        """A table whose rows are numbered, and its columns that are shown, each in one piece."""
        stated = self.manifest.files.get(f"{dictionary}/{name}")
        if stated != FileFacts.of(self._path(dictionary, name)):
            raise damaged(self.run, name)

        def read(path: Path) -> tuple[pa.Table, pa.Table]:
            whole = read_table(path)
            shown = whole.select(_SHOWN[name]).combine_chunks()
            return whole.append_column("row", pa.array(np.arange(len(whole)))), shown

        return self._opened(read, dictionary, name)

    def _opened(self, read: Callable[[Path], T], dictionary: int, name: str) -> T:
        try:
            return read(self._path(dictionary, name))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise damaged(self.run, name) from error

    def _ask_order(
        self, dictionary: int, name: str, rest: str, values: tuple[Any, ...]
    ) -> NDArray[np.int64]:
        """Numbers of the rows that fit, in order; CrossproofError if it takes too long."""
        table = self._tables(dictionary, name)[0]
        cursor = self._connection.cursor()
        timer = threading.Timer(MOST_SECONDS, cursor.interrupt)
        timer.start()
        try:
            cursor.register("asked", table)
            found = cursor.execute(f"SELECT row FROM asked {rest}", list(values)).fetchnumpy()
        except self._error as error:
            if "nterrupt" in str(error):
                raise CrossproofError("This search takes too long: ask for less.") from error
            raise damaged(self.run, name) from error
        finally:
            timer.cancel()
            cursor.close()
        return np.asarray(found["row"], dtype=np.int64)


def _query(table: str, question: RowsQuestion) -> tuple[str, tuple[Any, ...]]:
    """What follows the table's name in a statement, whose values stand apart."""
    sort = question.sort or ("interaction" if table == LATENTS else "per_token")
    _check(table, [sort])
    where, values = _conditions(table, question)
    order = "DESC" if question.descending else "ASC"
    return f"{where} ORDER BY {sort} {order} NULLS LAST, row", tuple(values)


def _conditions(table: str, question: RowsQuestion) -> tuple[str, list[Any]]:
    """A WHERE clause, whose values stand apart."""
    parts: list[str] = []
    values: list[Any] = []
    words = question.text.strip()
    if words and table == LATENTS:
        # the text of contexts is in small letters already
        found = "contains(text, ?) OR contains(lower(coalesce(explanation, '')), ?)"
        parts.append(f"(CAST(latent AS VARCHAR) = ? OR {found})")
        values += [words, words.lower(), words.lower()]
    elif words:
        parts.append("(CAST(h AS VARCHAR) = ? OR CAST(k AS VARCHAR) = ?)")
        values += [words, words]
    for sign, limits in ((">=", question.least), ("<=", question.most)):
        _check(table, [name for name in limits], numbers=True)
        for name, limit in limits.items():
            parts.append(f"{name} {sign} ?")
            values.append(limit)
    return ("WHERE " + " AND ".join(parts) if parts else ""), values


def _check(table: str, columns: Sequence[str], numbers: bool = False) -> None:
    known = [name for name in SORTS[table] if not (numbers and name in _TEXTS)]
    for name in columns:
        if name not in known:
            raise CrossproofError(f"There is no column '{name}': choose {', '.join(known)}.")


def _no_page(facts: DictionaryFacts, kind: str, number: int) -> str:
    if kind == "latent":
        return f"There is no latent {number} in '{facts.name}': it has 0 to {facts.latents - 1}."
    if kind == "pair":
        h, k = divmod(number, facts.latents)
        return f"Latents {h} and {k} of '{facts.name}' are not among the pairs with a page."
    return f"There is no {kind} {number} of '{facts.name}' in this store."
