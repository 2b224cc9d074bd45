"""The one exception that users are meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ("CrossproofError", "first_line", "nearest")


class CrossproofError(Exception):
    """Bad input: one sentence that names the thing and the remedy. The CLI prints it, exits 1."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that suggests the known names nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.3)
    return f" Nearest: {', '.join(close)}." if close else ""


def first_line(error: BaseException) -> str:
    """What another library complained about, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
