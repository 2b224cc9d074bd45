"""Settings from files: values of the types that dataclasses say, and specs of dictionaries."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from crossproof.errors import CrossproofError, first_line

C = TypeVar("C")


def typed(kind: type[C], values: Mapping[str, Any]) -> C:
    """`kind(**values)`; TypeError naming a value that is not of its field's type."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise TypeError(f"{name} is {value!r}")
    return kind(**values)


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    kinds = get_args(hint) or (hint,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def read_specs(text: str) -> dict[str, dict[str, Any]]:
    """The settings of several dictionaries by name: JSON, or a file of it; nothing for "".

    Raises CrossproofError for what is neither, and for names that are not plain.
    """
    if not text:
        return {}
    try:
        content = text if text.lstrip().startswith("{") else Path(text).read_text("utf-8")
        specs: dict[str, dict[str, Any]] = json.loads(content)
    except (OSError, ValueError) as error:
        raise CrossproofError(
            f"--specs is neither a JSON object nor a file of one ({first_line(error)})."
        ) from error
    fits = isinstance(specs, dict) and all(isinstance(each, dict) for each in specs.values())
    if not fits or not specs:
        raise CrossproofError("--specs must be an object of names, each with its settings.")
    for name in specs:
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", name):
            raise CrossproofError(f"The spec {name!r} needs a plain name: it becomes a folder.")
        if name == "crosscoder":  # the folder that every dictionary has in its own
            raise CrossproofError("A spec cannot be called 'crosscoder': give it another name.")
    return specs
