"""A folder of finished results by the hash of what they are made from.

CACHE/KIND-HASH/ holds key.json, which says what was hashed, and the result's files. An entry is
complete or absent: it is written under a temporary name and renamed, so a killed process leaves
nothing behind that looks finished, and of two processes that make the same entry one wins.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crossproof import CrossproofError

CODE = 1
"""Raise it when a change of the code alters what is cached under the same package version."""
KEY = "key.json"


@dataclass(frozen=True)
class ResultCache:
    """Finished results below `folder`."""

    folder: Path

    def find(self, kind: str, made_from: Mapping[str, Any]) -> Path | None:
        """The entry's folder, or None if it is not there."""
        path = self.path(kind, made_from)
        return path if path.is_dir() else None

    def put(self, kind: str, made_from: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """The entry's folder, after `write` has filled it; an entry that is there already stays.

        Raises CrossproofError if it cannot be written.
        """
        path = self.path(kind, made_from)
        temporary = self.folder / f".{path.name}.{os.getpid()}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write(temporary)
            (temporary / KEY).write_text(canonical(made_from, indent=1) + "\n")
            if not path.is_dir():
                _rename(temporary, path)
        except OSError as error:
            raise CrossproofError(
                f"Cannot write {path} ({error.strerror}): choose a writable --cache."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return path

    def get(self, kind: str, made_from: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        """The entry's folder, made by `write` if it is not there."""
        return self.find(kind, made_from) or self.put(kind, made_from, write)

    def path(self, kind: str, made_from: Mapping[str, Any]) -> Path:
        """Where the entry is, or will be."""
        whole = {"made_from": made_from, "version": _version(), "code": CODE}
        return self.folder / f"{kind}-{digest(canonical(whole).encode())}"


def canonical(content: Mapping[str, Any], indent: int | None = None) -> str:
    """JSON that equal contents share."""
    return json.dumps(content, sort_keys=True, indent=indent)


def digest(content: bytes) -> str:
    """Twenty hexadecimal digits of SHA-256."""
    return hashlib.sha256(content).hexdigest()[:20]


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.rename(temporary, path)
    except OSError:
        if not path.is_dir():  # else another process was first, with the same content
            raise


def _version() -> str:
    try:
        return version("crossproof")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "not installed"
