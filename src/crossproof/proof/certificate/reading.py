"""Files of strangers: opened, measured and parsed so that they can waste neither time nor memory.

Only regular files are opened (links to them too, but no devices, pipes and files of the kernel's,
which say that they are empty), no more than a stated number of bytes is ever read, JSON is UTF-8
with every key once, and a safetensors file is described by its header before any of its numbers is
read.
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.errors import CrossproofError
from crossproof.files import LFS, POINTER

LARGEST_HEADER = 2**20
"""Bytes of JSON."""
DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I8": "<i1"}
"""Types of tensors, and how numpy writes them."""
MOST_AXES = 8
"""Of a tensor: the product of as many sizes as a header may name takes minutes."""


class CertificateError(CrossproofError):
    """The certificate is malformed, asks for too much, or speaks about something else."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """The same with everything escaped that could act on a terminal, such as names from files."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quoted(value: object) -> str:
    """A value from a file as a message shows it: escaped, and cut where it is long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def read_some(path: Path, limit: int, start: int = 0) -> bytes:
    """Up to `limit` bytes of a regular file.

    Raises CertificateError for anything else, and for what cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CertificateError(f"{path} is no file: give the folder of a certificate.")
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CertificateError(f"{path} is no file: give the folder of a certificate.")
            if not os.fstat(file.fileno()).st_size:  # the kernel's files have none, and may wait
                raise CertificateError(f"{path} is damaged: empty, or not on a disk. Restore it.")
            if file.read(len(LFS)) == LFS:
                raise CertificateError(POINTER.format(path))
            file.seek(start)
            return file.read(limit)
    except FileNotFoundError as error:
        raise CertificateError(
            f"{path} is missing: give the folder that `crossproof prove` wrote."
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CertificateError(f"{path} cannot be read ({reason}): restore it.") from error


def read_json(path: Path) -> Any:
    """The content of a small JSON file; raises CertificateError if it is not one."""
    content = read_some(path, LARGEST_HEADER + 1)
    if len(content) > LARGEST_HEADER:
        raise CertificateError(f"{path} is larger than {LARGEST_HEADER:,} bytes: it is refused.")
    return _parsed(content, path)


def _parsed(content: bytes, path: Path) -> Any:
    try:
        return json.loads(
            content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once
        )
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{path} is not valid JSON ({error}): restore it.") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


@dataclass(frozen=True)
class TensorEntry:
    """A tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Where its bytes begin in the file."""

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """What it takes in the file."""
        return self.count * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return self.dtype.startswith("I")


def read_entries(path: Path) -> dict[str, TensorEntry]:
    """What a safetensors file holds, from its header alone.

    Raises CertificateError unless the tensors are well described and fill the file exactly.
    """
    prefix = read_some(path, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > LARGEST_HEADER:
        raise CertificateError(f"{path} is damaged or not a safetensors file: restore it.")
    content = read_some(path, length, 8)
    header = _parsed(content, path)
    header = header if isinstance(header, dict) else {"": header}
    header.pop("__metadata__", None)
    entries = {name: _entry(name, value, 8 + length, path) for name, value in header.items()}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: entry.start):
        end = end + entry.bytes if entry.start == end else -1
    if end != os.stat(path).st_size:
        raise CertificateError(f"{path} is damaged: its tensors do not fill it. Restore it.")
    return entries


def _entry(name: str, value: Any, start: int, path: Path) -> TensorEntry:
    try:
        dtype, shape, (first, last) = value["dtype"], value["shape"], value["data_offsets"]
        whole = len(shape) <= MOST_AXES and all(
            type(number) is int and 0 <= number < 2**63 for number in (*shape, first, last)
        )
        entry = TensorEntry(dtype, tuple(shape), start + first)
        if whole and set(value) == {"dtype", "shape", "data_offsets"}:
            if dtype not in DTYPES:
                raise CertificateError(
                    f"{quoted(name)} in {path} has type {quoted(dtype)}: use {', '.join(DTYPES)}."
                )
            if entry.bytes == last - first:
                return entry
    except (TypeError, ValueError, KeyError) as error:
        raise CertificateError(f"{path} describes {quoted(name)} wrongly: restore it.") from error
    raise CertificateError(f"{path} describes {quoted(name)} wrongly: restore it.")


def load(path: Path, entry: TensorEntry) -> npt.NDArray[Any]:
    """A tensor's numbers, as float64 or int64."""
    content = read_some(path, entry.bytes, entry.start)
    if len(content) != entry.bytes:
        raise CertificateError(f"{path} is damaged: it ends early. Restore it.")
    values = np.frombuffer(content, DTYPES[entry.dtype]).reshape(entry.shape)
    return values.astype(np.int64 if entry.whole else np.float64)
