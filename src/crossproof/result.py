"""What the functions of the public API return: plain data that prints, saves and loads itself.

A result is a frozen dataclass of numbers, strings, lists, dictionaries and other dataclasses. Its
JSON has the dataclass's field names. JSON has no NaN and no infinity: such a number becomes null,
and `missing` at the top of the document says, by path, why.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crossproof.errors import CrossproofError
from crossproof.files import read_json, write_json
from crossproof.tables import Table

if TYPE_CHECKING:
    import pandas
    from cattrs import Converter

__all__ = ("ABSENT", "MISSING", "Result")

R = TypeVar("R", bound="Result")  # not Self: beartype checks methods one by one

MISSING = "missing"
"""The key under which a document says why a value is null."""
UNDEFINED, INFINITE = "not defined (0/0)", "infinite"
"""The reasons."""
ABSENT = {"absent": True}
"""Metadata of a dataclass field that JSON leaves out where it is None: not measured, which is
something else than undefined."""


class Result:
    """Base of the results; subclasses are frozen dataclasses declared with `repr=False`."""

    def tables(self) -> Sequence[Table]:
        """What a terminal, a page and `repr` show; the main table first."""
        raise TypeError(f"{type(self).__name__} has no tables")

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold, with the reason for each null that stands for a
        number that is not finite."""
        missing: dict[str, str] = {}
        content: dict[str, Any] = _finite(_converter().unstructure(self), "", missing)
        return content | ({MISSING: missing} if missing else {})

    @classmethod
    def check(cls, content: Mapping[str, Any]) -> None:
        """Raises CrossproofError where `content` can be told not to be one, such as by schema."""

    @classmethod
    def from_json(cls: type[R], content: Mapping[str, Any]) -> R:
        """The result that `to_json` wrote; CrossproofError if `content` is not one."""
        cls.check(content)
        try:
            missing = content.get(MISSING, {})
            plain = {key: value for key, value in content.items() if key != MISSING}
            made: R = _converter().structure(_restored(plain, "", missing), cls)
        except Exception as error:  # cattrs groups errors of every kind under its own
            raise CrossproofError(
                f"This is no {cls.__name__} of this version of crossproof: make it again.",
                code="CP-VERSION",
            ) from error
        return made

    def save(self, path: Path) -> None:
        """Writes `to_json` to a file; CrossproofError if it cannot be written."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls: type[R], path: Path) -> R:
        """Reads what `save` wrote; CrossproofError if the file is missing, damaged or another's."""
        content = read_json(path)
        try:
            return cls.from_json(content)
        except CrossproofError as error:
            raise CrossproofError(f"{path}: {error}", code=error.code) from error

    def to_frame(self) -> pandas.DataFrame:
        """The main table as a data frame; CrossproofError if pandas is not installed."""
        return self.tables()[0].to_frame()

    def __repr__(self) -> str:
        return "\n\n".join(table.to_text() for table in self.tables())


def _finite(value: Any, path: str, missing: dict[str, str]) -> Any:
    """The same with null for numbers that JSON cannot hold; their paths go into `missing`."""
    if isinstance(value, float) and not math.isfinite(value):
        missing[path] = UNDEFINED if math.isnan(value) else INFINITE
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v, _below(path, k), missing) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v, _below(path, at), missing) for at, v in enumerate(value)]
    return value


def _restored(value: Any, path: str, missing: Mapping[str, str]) -> Any:
    """The same with the numbers that `missing` names the reasons of."""
    if value is None and path in missing:
        return math.inf if missing[path] == INFINITE else math.nan
    if isinstance(value, Mapping):
        return {k: _restored(v, _below(path, k), missing) for k, v in value.items()}
    if isinstance(value, list):
        return [_restored(v, _below(path, at), missing) for at, v in enumerate(value)]
    return value


def _below(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


@cache
def _converter() -> Converter:
    """Dataclasses to plain values and back; made when it is first needed."""
    from cattrs.gen import make_dict_unstructure_fn, override
    from cattrs.preconf.json import make_converter

    converter: Converter = make_converter(prefer_attrib_converters=False)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))

    def plain(cls: type) -> Any:
        left_out = {
            field.name: override(omit_if_default=True)
            for field in dataclasses.fields(cls)
            if field.metadata.get("absent")
        }
        overrides: dict[str, Any] = left_out
        return make_dict_unstructure_fn(cls, converter, **overrides)

    converter.register_unstructure_hook_factory(dataclasses.is_dataclass, plain)
    return converter
