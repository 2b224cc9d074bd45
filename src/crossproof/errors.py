"""The one exception and the one warning that users are meant to read, and how they are printed."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable

from crossproof.codes import ADDRESS, code_of_module

__all__ = (
    "CrossproofError",
    "CrossproofWarning",
    "first_line",
    "in_shell",
    "nearest",
    "printable",
    "with_code",
)

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class CrossproofError(Exception):
    """Bad input: one sentence that names the thing and the remedy. The CLI prints it, exits 1.

    `code` is given where the module that raises has several kinds of cause (`crossproof.codes`).
    """

    def __init__(self, sentence: str = "", *, code: str | None = None) -> None:
        super().__init__(sentence)
        self._code = code

    @property
    def code(self) -> str:
        """The stable code of its kind, such as `CP-TEXT`: a section of docs/errors.md.

        That of the module in which it was raised, unless it was given one.
        """
        if self._code is not None:
            return self._code
        at = self.__traceback__
        while at is not None and at.tb_next is not None:
            at = at.tb_next
        return code_of_module("" if at is None else at.tb_frame.f_globals["__name__"])


def with_code(sentence: str, code: str) -> str:
    """The sentence as the command line ends with it: behind it its code, and where it is told."""
    return f"{sentence} [{code}: {ADDRESS}#{code.lower()}]"


class CrossproofWarning(UserWarning):
    """One sentence about something that was left out or changed; the CLI prints it."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that suggests the known names nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.3)
    return f" Nearest: {', '.join(close)}." if close else ""


def first_line(error: BaseException) -> str:
    """What another library complained about, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def in_shell(argument: object) -> str:
    """A path or name as it is to be typed behind a command: with quotes where it has blanks."""
    return shlex.quote(str(argument))


def printable(text: str) -> str:
    """The text with what would steer a terminal (control characters, changes of the direction of
    writing) spelt as escapes: names come from files that anybody may have written."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
