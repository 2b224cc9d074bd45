"""A store's files: Arrow tables, written a group of rows at a time and read where they lie.

Nothing is copied when one is opened: the operating system keeps in memory what is asked for, once
for all readers.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PAGE_COLUMNS = {"number": pa.int64(), "page": pa.binary()}


class Growing:
    """An Arrow file that is written row by row, `group` of them together."""

    def __init__(self, path: Path, columns: Mapping[str, Any], group: int) -> None:
        self._schema = pa.schema(list(columns.items()))
        self._writer = pa.ipc.new_file(str(path), self._schema)
        self._group = group
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self._flush()
        self._writer.close()

    def add(self, row: dict[str, Any]) -> None:
        """Takes one row."""
        self._waiting.append(row)
        if len(self._waiting) == self._group:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            rows: Sequence[dict[str, Any]] = self._waiting
            self._writer.write_table(pa.Table.from_pylist(list(rows), schema=self._schema))
            self._waiting = []


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Writes whole columns, in one piece."""
    table = pa.table(dict(columns))
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """A file's table, checked so that no damage can lead a reader outside it.

    Raises OSError or pyarrow.ArrowException if the file is damaged.
    """
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    table.validate(full=True)
    return table


@dataclass(frozen=True, eq=False)
class Pages:
    """The pages of one file by their numbers, which ascend."""

    numbers: NDArray[np.int64]
    pages: pa.ChunkedArray

    @classmethod
    def read(cls, path: Path) -> Pages:
        """Opens a file; errors as `read_table`, and KeyError for another table."""
        table = read_table(path)
        return cls(table.column("number").to_numpy(), table.column("page"))

    def packed(self, number: int) -> bytes | None:
        """A page as it lies in the file; None if there is none.

        Raises zlib.error if it is damaged.
        """
        row = int(np.searchsorted(self.numbers, number))
        if row == len(self.numbers) or self.numbers[row] != number:
            return None
        page: bytes = self.pages[row].as_py()
        zlib.decompress(page)  # compares its checksum
        return page

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """All pages with their numbers."""
        for number, page in zip(self.numbers.tolist(), self.pages, strict=True):
            yield number, page.as_py()
