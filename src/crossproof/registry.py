"""Named things that other packages can add to: objectives, sparsity rules, formats, judges.

A thing is registered by itself or as "package.module:attribute", which is imported when it is
first asked for: listing names imports nothing. Packages that are installed bring theirs through
an entry point of the registry's group, whose name is the thing's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from crossproof.errors import CrossproofError, nearest

__all__ = ("Registry",)

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one kind by name, in the order of their registration."""

    def __init__(self, kind: str, group: str) -> None:
        """`kind` is what messages call a thing; `group` is that of the entry points."""
        self.kind, self.group = kind, group
        self._things: dict[str, T | str] = {}
        self._loaded: dict[str, T] = {}

    def register(self, name: str, thing: T | str) -> None:
        """Adds a thing, or where to import it from ("package.module:attribute").

        Raises CrossproofError if another thing has the name.
        """
        if self._things.get(name, thing) != thing:
            raise CrossproofError(
                f"There is another {self.kind} called '{name}': register yours by another name."
            )
        self._things[name] = thing

    def remove(self, name: str) -> None:
        """Forgets a thing that was registered; nothing happens if there is none."""
        self._things.pop(name, None)
        self._loaded.pop(name, None)

    def get(self, name: str) -> T:
        """The thing called `name`; CrossproofError with the nearest names if there is none."""
        if name not in self._loaded:
            self.check(name)
            thing = self._things.get(name)
            if thing is None:
                thing = self._installed[name].load()
            self._loaded[name] = imported(thing) if isinstance(thing, str) else cast(T, thing)
        return self._loaded[name]

    def check(self, name: str) -> None:
        """Raises CrossproofError with the nearest names if nothing is called `name`."""
        if name not in self:
            raise CrossproofError(
                f"There is no {self.kind} '{name}'; known: {', '.join(self)}."
                f"{nearest(name, self)} (A module that registers one is imported by --plugin "
                f"MODULE.)"
            )

    def names(self) -> tuple[str, ...]:
        """All names: registered ones first, then those of entry points. Imports nothing."""
        return tuple(dict.fromkeys([*self._things, *self._installed]))

    def registered(self) -> tuple[str, ...]:
        """The names without those that only entry points bring."""
        return tuple(self._things)

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def package(self, name: str) -> str:
        """The package whose entry point brings the thing; empty for one that is registered."""
        point = self._installed.get(name)
        return point.module.partition(".")[0] if point and name not in self._things else ""

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}


def imported(path: str) -> Any:
    """The object at "package.module:attribute", or a module if there is no colon."""
    module, _, attribute = path.partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded
