"""Folders that are written in many steps: what is begun is gone on with, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossproof.errors import CrossproofError
from crossproof.files import check_replaceable, make_folder, read_json, write_json

CODES = {"tokens": "CP-TEXT-FILE", "activations": "CP-STORE"}


@dataclass(frozen=True)
class LongFolder:
    """A folder that `crossproof-KIND.json` completes; before, there is another that says begun."""

    path: Path
    kind: str
    """What it holds: "tokens" or "activations"."""

    @property
    def index(self) -> Path:
        """There when the folder is complete."""
        return self.path / f"crossproof-{self.kind}.json"

    @property
    def begun(self) -> Path:
        """There until then."""
        return self.path / f"crossproof-{self.kind}.begun.json"

    def begin(self, about: Mapping[str, Any]) -> None:
        """Begins the folder, or goes on with it if it was begun for the same, or holds nothing yet.

        Raises CrossproofError if it is complete, or holds anything else.
        """
        if self.index.exists():
            self.begun.unlink(missing_ok=True)  # of a process that was killed just then
            raise CrossproofError(
                f"{self.path} already holds {self.kind}: use them, or give another --out.",
                code="CP-OUT",
            )
        for pattern in (f".crossproof-{self.kind}*.tmp", f".{self.kind}-*.tmp"):
            for left in self.path.glob(pattern):  # of a process that was killed
                left.unlink(missing_ok=True)
        if not any(self.path.glob(f"{self.kind}-*")):
            self.begun.unlink(missing_ok=True)
        if not self.begun.exists():
            check_replaceable(self.path, ())
            make_folder(self.path)
            write_json(self.begun, about)
        begun = read_json(self.begun)
        changed = sorted(name for name in about if begun.get(name) != about[name])
        if changed:
            raise CrossproofError(
                f"{self.path} holds the beginning of other {self.kind} ({', '.join(changed)} "
                f"differ): give what it was begun with, or another --out.",
                code="CP-OUT",
            )

    def finish(self, index: Mapping[str, Any]) -> None:
        """Completes it."""
        write_json(self.index, index)
        self.begun.unlink(missing_ok=True)

    def read(self, command: str, version: str) -> dict[str, Any]:
        """The index; CrossproofError if it is not complete, or of another version."""
        if not self.index.is_file():
            if not self.begun.is_file():
                raise CrossproofError(
                    f"{self.path} holds no {self.kind}: give a folder that `crossproof {command}` "
                    f"wrote.",
                    code=CODES[self.kind],
                )
            raise CrossproofError(
                f"{self.path} is not complete: repeat the `crossproof {command}` that began it, "
                f"which goes on where it stopped.",
                code=CODES[self.kind],
            )
        about = read_json(self.index)
        if about.get("format") != version:
            raise CrossproofError(
                f"{self.index} is not of this version of crossproof: `crossproof {command}` again.",
                code="CP-VERSION",
            )
        return about
