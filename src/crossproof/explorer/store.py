"""Asks a finished store: pages by number, latents and pairs by any figure or word."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossproof.errors import CrossproofError
from crossproof.explorer.format import (
    LATENTS,
    PAGES,
    PAIRS,
    STORE,
    DictionaryFacts,
    Manifest,
    damaged,
    read_manifest,
)
from crossproof.extras import needed

MOST_ROWS = 500
"""Rows of one answer."""
MOST_SECONDS = 10.0
"""An answer that takes longer is given up."""
SORTS: Mapping[str, Sequence[str]] = {
    LATENTS: (
        *("latent", "active", "frequency", "mean", "largest", "interaction", "owned"),
        *("partners", "strongest", "cluster", "label", "explanation"),
    ),
    PAIRS: ("h", "k", "coactive", "block", "per_token", "i", "second", "q", "difference"),
}
"""Columns by which rows can be sorted and, where they are numbers, limited."""
_PAGES_AT_ONCE = 512
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
        folder = (run / STORE).resolve()
        self._connection.execute("SET threads = 2")
        self._connection.execute("SET memory_limit = '1GB'")
        self._connection.execute(f"SET allowed_directories = [{_quoted(str(folder))}]")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        self._folder = folder

    @property
    def dictionaries(self) -> tuple[DictionaryFacts, ...]:
        """What the manifest says of each dictionary."""
        return self.manifest.dictionaries

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
        statement = "SELECT page FROM read_parquet(?) WHERE number = ?"
        found = self._ask(statement, [self._path(dictionary, PAGES[kind]), number])
        if not found:
            raise CrossproofError(_no_page(self.dictionaries[dictionary], kind, number))
        packed: bytes = found[0][0]
        return packed

    def rows(self, dictionary: int, table: str, question: RowsQuestion) -> dict[str, Any]:
        """Rows of a table as columns, and how many there are in all.

        Raises CrossproofError for a column that the table does not have.
        """
        path, (where, values) = self._path(dictionary, table), _conditions(table, question)
        sort = question.sort or ("interaction" if table == LATENTS else "per_token")
        _check(table, [sort])
        columns, ties = _SHOWN[table], "latent" if table == LATENTS else "h, k"
        order = "DESC" if question.descending else "ASC"
        count = self._ask(f"SELECT count(*) FROM read_parquet(?) {where}", [path, *values])[0][0]
        statement = (
            f"SELECT {', '.join(columns)} FROM read_parquet(?) {where} "
            f"ORDER BY {sort} {order} NULLS LAST, {ties} LIMIT ? OFFSET ?"
        )
        limits = [min(max(question.rows, 0), MOST_ROWS), max(question.first, 0)]
        found = self._ask(statement, [path, *values, *limits])
        return {"total": count, "columns": list(columns), "rows": [list(row) for row in found]}

    def packed_pages(self, dictionary: int, name: str) -> Iterator[tuple[int, bytes]]:
        """All pages of a file with their numbers, a few at a time."""
        statement = "SELECT number, page FROM read_parquet(?) WHERE number >= ? ORDER BY 1 LIMIT ?"
        start = 0
        while found := self._ask(statement, [self._path(dictionary, name), start, _PAGES_AT_ONCE]):
            yield from ((number, page) for number, page in found)
            start = found[-1][0] + 1

    def table(self, dictionary: int, name: str, most: int = 2**31) -> dict[str, Any]:
        """A whole table as an answer of `rows`: latents by number, pairs strongest first."""
        columns = _SHOWN[name]
        order = "latent" if name == LATENTS else "per_token DESC, h, k"
        statement = f"SELECT {', '.join(columns)} FROM read_parquet(?) ORDER BY {order} LIMIT ?"
        found = self._ask(statement, [self._path(dictionary, name), most])
        return {"total": len(found), "columns": list(columns), "rows": [list(r) for r in found]}

    def texts(self, dictionary: int) -> list[str]:
        """The contexts of every latent, in which searches look for words."""
        statement = "SELECT text FROM read_parquet(?) ORDER BY latent"
        return [row[0] for row in self._ask(statement, [self._path(dictionary, LATENTS)])]

    def _path(self, dictionary: int, name: str) -> str:
        return str(self._folder / str(dictionary) / name)

    def _ask(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """The answer; CrossproofError if it takes too long or a file cannot be read."""
        cursor = self._connection.cursor()
        timer = threading.Timer(MOST_SECONDS, cursor.interrupt)
        timer.start()
        try:
            rows: list[tuple[Any, ...]] = cursor.execute(statement, list(values)).fetchall()
        except self._error as error:
            if "nterrupt" in str(error):
                raise CrossproofError("This search takes too long: ask for less.") from error
            raise damaged(self.run, Path(str(values[0])).name) from error
        finally:
            timer.cancel()
            cursor.close()
        return rows


def _conditions(table: str, question: RowsQuestion) -> tuple[str, list[Any]]:
    """A WHERE clause, whose values stand apart."""
    parts: list[str] = []
    values: list[Any] = []
    words = question.text.strip()
    if words and table == LATENTS:
        found = "contains(lower(text), ?) OR contains(lower(coalesce(explanation, '')), ?)"
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


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
