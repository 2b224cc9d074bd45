"""Documents of text files, of tables (json, csv, parquet, arrow), and of data sets."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from crossproof.activations.sources import DocumentSource
from crossproof.activations.tables import column_of, text_lines
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.files import refuse_pointer

SEPARATOR = "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_documents(source: str | Path) -> Iterator[str]:
    """The non-empty documents of a source (docs/texts.md), in order.

    A text file is cut at every "<|endoftext|>"; lines of jsonl and tables have a field or column
    "text", or that which ",column=NAME" names. Rows without text (null) are left out, with a
    warning that counts them; lone surrogates become U+FFFD. Raises CrossproofError naming the
    file, and the line, column or split where something is wrong, and where no row has text.
    """
    parsed = DocumentSource.parse(source)
    if parsed.data_set:
        from crossproof.activations.columns import data_set_column  # imports pandas

        return _present(data_set_column(parsed), str(parsed))
    if not os.path.isfile(parsed.name):
        raise CrossproofError(f"There is no text file '{parsed}': check the path.")
    path = Path(parsed.name)
    if parsed.kind == ".txt":
        refuse_pointer(path)
        return _present(_from_text(path), str(parsed))
    return _present(column_of(path, parsed.column), str(parsed))


def _present(documents: Iterable[str | None], source: str) -> Iterator[str]:
    """The documents that there are, with no character that is none."""
    rows = missing = 0
    for rows, document in enumerate(documents, start=1):  # noqa: B007
        if document is None:
            missing += 1
        elif text := document.removeprefix("\ufeff"):
            yield well_formed(text)
    if not rows:
        raise CrossproofError(f"'{source}' has no rows: give another.")
    if missing == rows:
        raise CrossproofError(f"None of the {rows} rows of '{source}' has text, all are null.")
    if missing:
        sentence = f"{missing} of {rows} rows of '{source}' are null: left out."
        warnings.warn(sentence, CrossproofWarning, stacklevel=2)


def well_formed(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which tokenizers do not take."""
    return _SURROGATE.sub("\ufffd", text)


def _from_text(path: Path) -> Iterator[str]:
    pending: list[str] = []
    for _, line in text_lines(path):
        head, *rest = line.split(SEPARATOR)
        pending.append(head)
        for piece in rest:
            yield "".join(pending).strip()
            pending = [piece]
    yield "".join(pending).strip()
