"""The one exception and the one warning that users are meant to read, and how they are printed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ("CrossproofError", "CrossproofWarning", "first_line", "nearest", "printable")

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class CrossproofError(Exception):
    """Bad input: one sentence that names the thing and the remedy. The CLI prints it, exits 1."""


class CrossproofWarning(UserWarning):
    """One sentence about something that was left out or changed; the CLI prints it."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that suggests the known names nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.3)
    return f" Nearest: {', '.join(close)}." if close else ""


def first_line(error: BaseException) -> str:
    """What another library complained about, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def printable(text: str) -> str:
    """The text with what would steer a terminal (control characters, changes of the direction of
    writing) spelt as escapes: names come from files that anybody may have written."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
