"""Output that stops nothing: consoles that lack characters, readers that go away, full disks."""

from __future__ import annotations

import codecs
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from crossproof.errors import CrossproofWarning, printable

PLAIN = {
    **dict.fromkeys("−–—─", "-"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **{"│": "|", "‖": "|", "×": "x", "·": "*", "→": "->", "…": "...", "↵": "/"},
    **{"≤": "<=", "≥": ">=", "Φ": "Phi", "Σ": "sum", "β": "beta"},
}
"""What is printed where a console lacks a character; "?" for those that are not here."""


@contextmanager
def forgiving_output() -> Iterator[list[OSError]]:
    """In the block, standard output and error take every character and never raise.

    Characters that the console lacks are replaced, and what nobody can receive any more (a closed
    pipe, a full disk) is dropped, so that the work behind it goes on to its files. What standard
    output lost, but to a reader who had enough, is in the list once the block has ended.
    """
    lost: list[OSError] = []
    streams, before = (sys.stdout, sys.stderr), warnings.showwarning
    settings = [getattr(stream, "errors", None) for stream in streams]
    _set_errors(streams, ["crossproof"] * 2)
    sys.stdout, sys.stderr = _Forgiving.of(streams[0], lost), _Forgiving.of(streams[1], [])
    warnings.showwarning = _show_warning
    try:
        yield lost
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        warnings.showwarning = before
        sys.stdout, sys.stderr = streams
        _set_errors(streams, settings)


def _set_errors(streams: tuple[Any, ...], settings: list[str | None]) -> None:
    for stream, errors in zip(streams, settings, strict=True):
        if hasattr(stream, "reconfigure") and errors is not None:
            stream.reconfigure(errors=errors)


class _Forgiving:
    """A text stream that goes to nowhere once it cannot be written; `broken` says that its reader
    went away."""

    def __init__(self, stream: Any, lost: list[OSError]) -> None:
        self._stream, self._lost, self.broken = stream, lost, False

    @classmethod
    def of(cls, stream: Any, lost: list[OSError]) -> Any:
        """The stream made forgiving; None where a process has none."""
        return None if stream is None else cls(stream, lost)

    def write(self, text: str) -> int:
        """Writes what can be written."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        self.broken = self.broken or isinstance(error, BrokenPipeError)
        if not isinstance(error, BrokenPipeError):
            self._lost.append(error)
        try:
            number = self._stream.fileno()
        except OSError:  # a stream without a file
            return
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Ours are one sentence; others look as Python writes them."""
    if issubclass(category, CrossproofWarning):
        print(printable(f"crossproof: {message}"), file=sys.stderr)
    else:
        told = warnings.formatwarning(message, category, filename, lineno, line)
        print(told, end="", file=file or sys.stderr)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in lacking), error.end


codecs.register_error("crossproof", _replaced)
