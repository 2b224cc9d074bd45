"""Files of text on a disk or elsewhere, opened for reading, without their compression."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crossproof.errors import CrossproofError, first_line

BYTES_READ: ContextVar[dict[str, int] | None] = ContextVar("BYTES_READ", default=None)
"""How many bytes of each file have been read, of lines in compressed files too; None: uncounted."""
_OFTEN = 64
"""Lines between two looks at where a file is."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address that `fsspec` knows, such as hf://datasets/...; read as it arrives."""

    address: str

    @property
    def name(self) -> str:
        """The last part of its address."""
        return PurePosixPath(self.address).name

    @property
    def suffix(self) -> str:
        """Its last ending."""
        return PurePosixPath(self.address).suffix

    def open(self, mode: str = "rb") -> Any:
        """The file; what is read of it is fetched then, and nothing else."""
        import fsspec  # type: ignore[import-untyped]

        return fsspec.open(self.address, mode).open()

    def __str__(self) -> str:
        return self.address


def _zstd(compressed: Any, _: str) -> io.BufferedReader:
    import pyarrow

    file = pyarrow.PythonFile(compressed, mode="r")
    return io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


_DECOMPRESSED: dict[str, Callable[[Any, Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstd,
}


def _lines(path: Path | RemoteFile) -> Iterator[bytes]:
    decompress = _DECOMPRESSED.get(path.suffix.lower())
    with path.open("rb") as opened:
        lines = opened if decompress is None else decompress(opened, "rb")
        for number, line in enumerate(lines):
            if number % _OFTEN == 0:
                count_bytes(path, opened)
            yield line
        count_bytes(path, opened)


def count_bytes(path: Path | RemoteFile, opened: Any) -> None:
    """Notes how far a file has been read, if anybody wants to know."""
    counted = BYTES_READ.get()
    if counted is not None:
        counted[str(path)] = opened.tell()


def text_lines(path: Path | RemoteFile) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8 text, without its byte-order mark; every line ends with "\\n"."""
    number = 1
    try:
        for number, line in enumerate(_lines(path), start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if "\0" in text:
                raise ValueError("it holds NUL")
            yield number, text.replace("\r\n", "\n").replace("\r", "\n")
    except (ValueError, OverflowError) as error:
        raise CrossproofError(
            f"Line {number} of '{path}' is not UTF-8 text ({first_line(error)}); convert it first."
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CrossproofError(
            f"'{path}' cannot be read at line {number} ({first_line(error)}); restore it."
        ) from error
