"""Options are documented dataclasses; every command reads them the same way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from crossproof.errors import CrossproofError
from crossproof.training.objective import Objective
from crossproof.training.terms import OBJECTIVES

REGISTRY = ConstructorRegistry()

RENAMED = {
    "--transition": "--keep-largest",
    "--share": "--dominant-share",
    "--penalty-share": "--penalty-fraction",
    "--revive-lift": "--revive-bias-rate",
}
"""Options of older versions, and what they are called now."""


def parse(kind: Any, command: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Options of `kind` from the command line; nested options have flat names (`--steps`)."""
    defaults = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        args=[_current(argument) for argument in arguments],
        prog=f"crossproof {command}",
        config=(tyro.conf.OmitArgPrefixes,),
        registry=REGISTRY,
        **defaults,
    )


def mlps_of(text: str) -> Literal["next", "all"] | tuple[int, ...]:
    """What `--mlp` says; raises CrossproofError unless it is next, all, or numbers of blocks."""
    if text == "next":
        return "next"
    if text == "all":
        return "all"
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError as error:
        raise CrossproofError(
            f"--mlp is '{text}': give next, all, or blocks with commas between, such as 3,4."
        ) from error


def _current(argument: str) -> str:
    """The argument with an option that has been renamed spelled as it is now."""
    option, equals, value = argument.partition("=")
    if option not in RENAMED:
        return argument
    print(f"crossproof: {option} is now called {RENAMED[option]}.", file=sys.stderr)
    return RENAMED[option] + equals + value


@REGISTRY.struct_rule
def _objective(info: StructTypeInfo) -> StructConstructorSpec | None:
    """An option for every registered term's strength, and for each of its options."""
    if info.type is not Objective:
        return None
    default = info.default if isinstance(info.default, Objective) else Objective()
    fields = []
    for name in OBJECTIVES:
        package = OBJECTIVES.package(name)
        if package:  # not loaded for --help, which would take its time
            fields.append(_field(name, float, default, f"A term of the package {package}."))
            continue
        term = OBJECTIVES.get(name)
        fields.append(_field(name, float, default, term.description))
        for key, option in term.spelled().items():
            fields.append(_field(key, Literal[option.values], default, option.description))
    return StructConstructorSpec(instantiate=Objective, fields=tuple(fields))


def _field(name: str, kind: Any, default: Objective, help: str) -> StructFieldSpec:
    return StructFieldSpec(name, kind, getattr(default, name), help)
