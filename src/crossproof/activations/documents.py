"""Documents of text files, of tables (json, csv, parquet, arrow), and of the `datasets` library."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from crossproof.activations.sources import DocumentSource, other_columns
from crossproof.errors import CrossproofError, CrossproofWarning, first_line
from crossproof.lm.sources import LFS

SEPARATOR = "<|endoftext|>"
_COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_documents(source: str | Path) -> Iterator[str]:
    """The non-empty documents of a source (docs/texts.md), in order.

    A text file is cut at every "<|endoftext|>"; lines of jsonl and tables have a field or column
    "text", or that which ",column=NAME" names. Rows without text (null) are left out, with a
    warning that counts them; lone surrogates become U+FFFD. Raises CrossproofError naming the
    file, and the line, column or split where something is wrong, and where no row has text.
    """
    parsed = DocumentSource.parse(source)
    if not parsed.data_set and not os.path.isfile(parsed.name):
        raise CrossproofError(f"There is no text file '{parsed}': check the path.")
    if not parsed.data_set:
        refuse_pointer(Path(parsed.name))
    if parsed.kind == ".txt":
        documents: Iterable[str | None] = _from_text(Path(parsed.name))
    elif parsed.kind == ".jsonl":
        documents = _from_jsonl(Path(parsed.name), parsed.column)
    else:
        from crossproof.activations.columns import read_column  # imports pandas and pyarrow

        documents = read_column(parsed)
    return _present(documents, str(parsed))


def _present(documents: Iterable[str | None], source: str) -> Iterator[str]:
    """The documents that there are, with no character that is none."""
    rows = missing = 0
    for rows, document in enumerate(documents, start=1):  # noqa: B007
        if document is None:
            missing += 1
        elif document:
            yield well_formed(document)
    if rows and missing == rows:
        raise CrossproofError(f"None of the {rows} rows of '{source}' has text, all are null.")
    if missing:
        sentence = f"{missing} of {rows} rows of '{source}' are null: left out."
        warnings.warn(sentence, CrossproofWarning, stacklevel=2)


def well_formed(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which tokenizers do not take."""
    return _SURROGATE.sub("\ufffd", text)


def refuse_pointer(path: Path) -> None:
    """Raises CrossproofError for what Git LFS leaves in a file's place until it downloads it."""
    with path.open("rb") as opened:
        pointer = opened.read(len(LFS)) == LFS
    if pointer:
        raise CrossproofError(f"'{path}' is a Git LFS pointer: run `git lfs pull` in its folder.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of UTF-8 text, without its byte-order mark; every line ends with "\\n"."""
    number = 1
    try:
        with _COMPRESSED.get(path.suffix, open)(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if "\0" in text:
                    raise ValueError("it holds NUL")
                yield number, text.replace("\r\n", "\n").replace("\r", "\n")
    except (ValueError, OverflowError) as error:
        raise CrossproofError(
            f"Line {number} of '{path}' is not UTF-8 text ({first_line(error)}); convert it first."
        ) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CrossproofError(
            f"'{path}' cannot be read at line {number} ({first_line(error)}); restore it."
        ) from error


def _from_text(path: Path) -> Iterator[str]:
    pending: list[str] = []
    for _, line in _lines(path):
        head, *rest = line.split(SEPARATOR)
        pending.append(head)
        for piece in rest:
            yield "".join(pending).strip()
            pending = [piece]
    yield "".join(pending).strip()


def _from_jsonl(path: Path, field: str) -> Iterator[str | None]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CrossproofError(
                f"Line {number} of '{path}' is not JSON ({first_line(error)}); mend or remove it."
            ) from error
        if not isinstance(row, dict) or field not in row:
            raise CrossproofError(
                f"Line {number} of '{path}' is not a JSON object with the field '{field}'."
                f"{other_columns(field, row if isinstance(row, dict) else ())}"
            )
        if not isinstance(row[field], str | None):
            raise CrossproofError(
                f"In line {number} of '{path}', '{field}' is not a string; mend or remove it."
            )
        yield row[field]
