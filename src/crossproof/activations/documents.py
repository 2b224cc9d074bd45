"""Documents of text files, of tables (json, csv, parquet, arrow), and of data sets."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from crossproof.activations.chats import Spell, chat_of
from crossproof.activations.opening import text_lines
from crossproof.activations.sources import DocumentSource
from crossproof.activations.tables import Value, column_of
from crossproof.activations.token_folder import token_folder
from crossproof.errors import CrossproofError, CrossproofWarning, first_line
from crossproof.files import refuse_pointer

SEPARATOR = "<|endoftext|>"
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_documents(source: str | Path, spell: Spell | None = None) -> Iterator[str]:
    """The non-empty documents of a source (docs/texts.md), in order.

    A text file is cut at every "<|endoftext|>"; lines of jsonl and tables have a field or column
    "text", or that which "#NAME" names. `spell` makes documents of chats. Several sources follow
    one another, or are mixed if they have weights: then so that the characters of each keep its
    share, until the first of them ends. Rows without text (null) are left out, with a warning that
    counts them; lone surrogates become U+FFFD. Raises CrossproofError naming the file, and the
    line, column or split where something is wrong, and where no row has text.
    """
    parts = DocumentSource.parse_all(source)
    streams = [_of_one(part, spell) for part in parts]
    weights = [part.weight for part in parts if part.weight is not None]
    if len(weights) < 2:
        return chain.from_iterable(streams)
    return _mixed(streams, weights)


def _mixed(streams: Sequence[Iterator[str]], weights: Sequence[float]) -> Iterator[str]:
    """Always the stream that is furthest behind its share; the first of equal ones."""
    taken = [0.0] * len(streams)
    while True:
        at = taken.index(min(taken))
        document = next(streams[at], None)
        if document is None:
            return
        yield document
        taken[at] += len(document) / weights[at]


def _of_one(parsed: DocumentSource, spell: Spell | None) -> Iterator[str]:
    if token_folder(parsed.name) is not None:
        raise CrossproofError(
            f"'{parsed}' holds tokens, not text: give it alone, and join texts before they are "
            f"tokenised."
        )
    if parsed.data_set:
        from crossproof.activations.columns import data_set_column  # imports pandas

        return _present(data_set_column(parsed), str(parsed), spell)
    if not parsed.files:
        raise CrossproofError(f"There is no text file '{parsed}': check the path.")
    rows = chain.from_iterable(_rows(path, parsed.column) for path in parsed.files)
    return _present(rows, str(parsed), spell)


def _rows(path: Path, column: str) -> Iterator[Value]:
    if DocumentSource(str(path)).kind != ".txt":
        return column_of(path, column)
    try:
        refuse_pointer(path)
    except OSError as error:
        raise CrossproofError(
            f"'{path}' cannot be read ({first_line(error)}): see to it."
        ) from error
    return _from_text(path)


def _present(rows: Iterable[Value], source: str, spell: Spell | None) -> Iterator[str]:
    """The documents that there are, with no character that is none."""
    count = missing = 0
    for count, row in enumerate(rows, start=1):  # noqa: B007
        if row is None:
            missing += 1
        elif text := _text(row, source, spell).removeprefix("\ufeff"):
            yield well_formed(text)
    if not count:
        raise CrossproofError(f"'{source}' has no rows: give another.")
    if missing == count:
        raise CrossproofError(f"None of the {count} rows of '{source}' has text, all are null.")
    if missing:
        sentence = f"{missing} of {count} rows of '{source}' are null: left out."
        warnings.warn(sentence, CrossproofWarning, stacklevel=2)


def _text(row: Value, source: str, spell: Spell | None) -> str:
    if isinstance(row, str):
        return row
    chat = chat_of(row)
    if spell is None or chat is None:
        raise CrossproofError(
            f"'{source}' holds a list, which is not text, or chats, which only a tokenizer's chat "
            f"template makes into text: name a column of text by ',column=NAME'."
        )
    return spell(chat)


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
