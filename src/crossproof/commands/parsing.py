"""Options are documented dataclasses; every command reads them the same way."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from inspect import cleandoc
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from crossproof.errors import CrossproofError, with_code
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


ONE = (1, 2**53)
SHARE = (0, 1)
LIMITS = {
    **dict.fromkeys(("sequences", "context", "tokens", "steps", "points", "nodes", "top"), ONE),
    **dict.fromkeys(("batch_tokens", "buffer_batches", "checkpoint_every", "log_every"), ONE),
    **dict.fromkeys(("evaluation_sequences", "n_latents", "k", "groups"), ONE),
    **dict.fromkeys(("seeds", "latents", "llm_timeout", "llm_rate", "shard_tokens"), ONE),
    **dict.fromkeys(
        ("warmup", "decay", "penalty_warmup", "penalty_delay", "text_delay", "max_frequency"), SHARE
    ),
    **{"penalty_fraction": (1e-6, 1), "beta1": (0, 0.999999), "beta2": (0, 0.999999)},
    **{"threads": (0, 1024), "seed": (0, 2**32 - 1), "blocks": (-1, 2**53)},
}
"""The smallest and the largest number that an option takes."""
OTHERS = (0, 2**53)
"""The same of all other options."""


def parse(kind: Any, command: str, arguments: Sequence[str], default: Any = None) -> Any:
    """Options of `kind` from the command line; nested options have flat names (`--steps`).

    Raises CrossproofError for a number that an option cannot take, and for an empty --out.
    """
    if any(pair == ("--out", "") for pair in pairwise(arguments)) or "--out=" in arguments:
        raise CrossproofError("--out is empty: give a folder ('.' is this one).")
    defaults = {} if default is None else {"default": default}
    try:
        options = tyro.cli(
            kind,
            args=[_current(argument) for argument in arguments],
            prog=f"crossproof {command}",
            description=_description(kind),
            config=(tyro.conf.OmitArgPrefixes,),
            registry=REGISTRY,
            **defaults,
        )
    except SystemExit as stop:
        if stop.code == 2:  # it has said which option, and not where to read on
            print(with_code("crossproof: Nothing was done.", "CP-COMMAND"), file=sys.stderr)
        raise
    for name, value in _numbers(options):
        least, most = LIMITS.get(name, OTHERS)
        if not least <= value <= most:
            raise CrossproofError(
                f"--{name.replace('_', '-')} is {value}: give a number from {least} "
                + ("up." if most == OTHERS[1] and not value > most else f"to {most}.")
            )
    return options


def _numbers(options: Any) -> Iterator[tuple[str, float]]:
    """Every number among the options by its option's name, those of nested options too."""
    if isinstance(options, Objective):
        yield from options.strengths().items()
        return
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value) or isinstance(value, Objective):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            spelt = (getattr(each, "name", None) for each in get_args(hints[field.name])[1:])
            yield next(filter(None, spelt), field.name).replace("-", "_"), value


def _current(argument: str) -> str:
    """The argument with an option that has been renamed spelled as it is now."""
    option, equals, value = argument.partition("=")
    if option not in RENAMED:
        return argument
    print(f"crossproof: {option} is now called {RENAMED[option]}.", file=sys.stderr)
    return RENAMED[option] + equals + value


LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n| {2})")
"""Within a paragraph; lines that are set off are code."""
BEFORE_CODE = re.compile(r"\n\n(?= {2}\S)")
"""The parser makes two empty lines of one."""


def _description(kind: Any) -> str:
    """What a command does, whose source's line breaks are none of the terminal's."""
    return BEFORE_CODE.sub("\n", LINE_BREAK.sub(" ", cleandoc(kind.__doc__)))


NONE = tyro.conf.arg(help_behavior_hint="(default: none)")
_ASKED: list[StructTypeInfo] = []
"""For which tyro's own rule is being asked."""


@REGISTRY.struct_rule
def _in_one_line(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Options as tyro reads them, with the line breaks of their docstrings taken out.

    A list that is empty by default says so.
    """
    if not is_dataclass(info.type) or info in _ASKED:
        return None
    _ASKED.append(info)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _ASKED.remove(info)
    if not isinstance(spec, StructConstructorSpec):
        return None
    return replace(spec, fields=tuple(map(_readable, spec.fields)))


def _readable(option: StructFieldSpec) -> StructFieldSpec:
    kind: Any = Annotated[option.type, NONE] if option.default == () else option.type
    return replace(option, type=kind, helptext=_joined(option.helptext))


def _joined(text: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    """The help of an option, found when it is asked for, as one line."""

    def found() -> str | None:
        told = text() if callable(text) else text
        return told and " ".join(told.split())

    return found


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
