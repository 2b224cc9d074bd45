"""The registered formats of other libraries by name. Imports nothing that takes time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from crossproof.registry import Registry

if TYPE_CHECKING:
    from crossproof.crosscoder.formats.foreign import ForeignDictionary


@runtime_checkable
class DictionaryFormat(Protocol):
    """How one library's saves are recognised and read: a module or an object with two functions.

    Neither runs code from the files, writes anything, or needs a network.
    """

    def recognise(self, path: Path) -> bool:
        """Whether the file or folder itself (not something below it) is a save of the library.

        Cheap, and never an error: damaged files are for `read` to complain about.
        """
        ...

    def read(self, path: Path) -> Sequence[ForeignDictionary]:
        """The dictionaries in it, each as the library computes it, float32 on the CPU.

        Raises CrossproofError for what is missing, damaged, or no crosscoder.
        """
        ...


FORMATS: Registry[DictionaryFormat] = Registry("format", "crossproof.formats")
"""An entry point of the group names a `DictionaryFormat`."""


def register_format(name: str, format: DictionaryFormat | str) -> None:
    """Adds a format: `import_dictionary` and `crossproof import` try it, after those before it.

    `format` is a `DictionaryFormat` or "package.module", that of one; docs/extending/formats.md
    has the contract and an example. Raises CrossproofError if another format has the name.
    """
    FORMATS.register(name, format)


for _name in (
    "saelens",
    "sparsify",
    "dictionary_learning",
    "crosscode",
    "gemma_scope",
    "circuit_tracer",
    "llamascopium",
):
    register_format(_name, f"crossproof.crosscoder.formats.{_name}")
