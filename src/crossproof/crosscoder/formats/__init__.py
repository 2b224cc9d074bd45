"""Dictionaries that other libraries saved (docs/importing.md); one module a library."""

from crossproof.crosscoder.formats.importing import (
    FORMATS,
    FormatName,
    import_dictionaries,
    import_dictionary,
)

__all__ = ["FORMATS", "FormatName", "import_dictionaries", "import_dictionary"]
