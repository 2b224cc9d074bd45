"""What a crosscoder is trained for. Imports nothing that takes time, for the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from crossproof.errors import CrossproofError
from crossproof.training.terms import OBJECTIVES, ObjectiveTerm, TermOption

RENAMED = {"transition": "keep_largest", "share": "dominant_share"}
"""Terms as older runs spelled them, and what they are called now."""


class Objective(dict[str, float | str]):
    """The strength of each term by name; a term that is not named is left out of the loss.

        Objective(interaction=5.0, keep_largest=200.0)
        Objective(interaction=1.0, interaction_weights="output_norm")

    An immutable dictionary in the order of the registry, so that JSON and `dataclasses.asdict`
    take it as it is. Attributes give strengths (0 for terms that are left out) and options.
    Raises CrossproofError for an unknown name, a strength that is no number, and an option's
    value that it does not have.
    """

    def __init__(
        self, terms: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), /, **more: Any
    ) -> None:
        given = dict(terms) | more
        for name, value in given.items():
            if name in OBJECTIVES:
                _check_strength(name, value)
            elif (known := _option(name)) is None:
                OBJECTIVES.check(name)
            elif value not in known.values:
                choice = ", ".join(known.values)
                raise CrossproofError(f"{name} is {value!r}: choose one of {choice}.")
        super().__init__(_ordered(given))

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Objective:
        """The objective of a config.json: older names are known, missing plugins no error."""
        named = {RENAMED.get(name, name): value for name, value in values.items()}
        for name, value in named.items():
            if name in OBJECTIVES:
                _check_strength(name, value)
        made = cls()
        dict.update(made, _ordered(named))
        return made

    def strengths(self) -> dict[str, float]:
        """The non-zero strengths by term."""
        return {name: v for name, v in self.items() if isinstance(v, float | int)}

    def options(self, term: ObjectiveTerm) -> dict[str, str]:
        """Keyword arguments of a term's function that are not its defaults."""
        named = {f"{term.name}_{option}": option for option in term.options}
        return {named[key]: str(value) for key, value in self.items() if key in named}

    def describe(self) -> str:
        """A short label: the non-zero terms and their strengths."""
        terms = ", ".join(f"{name} {value:g}" for name, value in self.strengths().items())
        return terms or "reconstruction only"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self:
            return self[name]
        if name in OBJECTIVES:
            return 0.0
        if known := _option(name):
            return known.values[0]
        raise AttributeError(f"There is no objective '{name}'.")

    def __repr__(self) -> str:
        return f"Objective({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __hash__(self) -> int:  # type: ignore[override]  # immutable, unlike other dictionaries
        return hash(tuple(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Objective.stored, (dict(self),)

    def _fixed(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("An Objective cannot be changed: make another one.")

    __setitem__ = __delitem__ = update = pop = popitem = clear = setdefault = __ior__ = _fixed


def is_setting(name: str) -> bool:
    """Whether an objective has a term or an option of this name."""
    return name in OBJECTIVES or _option(name) is not None


def _option(key: str) -> TermOption | None:
    """An option of a term by the name it has in an `Objective`."""
    for name in OBJECTIVES:
        if key.startswith(f"{name}_") and (known := OBJECTIVES.get(name).spelled().get(key)):
            return known
    return None


def _ordered(given: Mapping[str, Any]) -> dict[str, float | str]:
    """Non-zero strengths and unusual options, in the registry's order: the sum depends on it."""
    order = OBJECTIVES.registered()
    names = sorted(given, key=lambda name: order.index(name) if name in order else len(order))
    kept = [name for name in names if given[name] != 0 and not _default(name, given[name])]
    return {name: v if isinstance(v := given[name], str) else float(v) for name in kept}


def _default(key: str, value: Any) -> bool:
    known = _option(key) if isinstance(value, str) else None
    return known is not None and value == known.values[0]


def _check_strength(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int) or value != value:
        raise CrossproofError(f"The strength of '{name}' is {value!r}: give a number.")
