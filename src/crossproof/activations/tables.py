"""One column of text of a file, row by row: what is no text is refused with its line."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.activations.chats import chat_of, is_chat_type
from crossproof.activations.opening import RemoteFile, count_bytes, text_lines
from crossproof.activations.sources import ending, other_columns
from crossproof.errors import CrossproofError, first_line
from crossproof.files import refuse_pointer

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Schema

File = Path | RemoteFile
Value = str | list[Any] | None
"""A text, a chat (`chats.chat_of`), or nothing."""
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError)
"""What pyarrow raises over damaged files, beside exceptions of its own."""
_MAY_BE_EMPTY = (".txt", ".jsonl", ".ndjson")


def column_of(path: File, column: str) -> Iterator[Value]:
    """The values of a file's column, row by row; None where a row has none.

    Raises CrossproofError naming the file, and the line or column where something is wrong.
    """
    kind = ending(path.name)
    if kind not in READERS:
        raise CrossproofError(f"'{path}' is not a file of a known kind: give {', '.join(READERS)}.")
    if isinstance(path, RemoteFile):
        return READERS[kind](path, column)
    try:
        refuse_pointer(path)
    except OSError as error:
        raise _damaged(path, error) from error
    if kind not in _MAY_BE_EMPTY and not path.stat().st_size:
        raise CrossproofError(f"'{path}' is empty: give another.")
    return READERS[kind](path, column)


def _of_lines(path: File, column: str) -> Iterator[Value]:
    """Every line a row, as `datasets` has it."""
    if column != "text":
        raise CrossproofError(f"'{path}' is plain text, without columns: leave out ',column='.")
    for _, line in text_lines(path):
        yield from line.removesuffix("\n").split("\n")


def _of_json_lines(path: File, column: str) -> Iterator[Value]:
    return _of_numbered(text_lines(path), path, column)


def _of_numbered(lines: Iterable[tuple[int, str]], path: File, column: str) -> Iterator[Value]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CrossproofError(
                f"Line {number} of '{path}' is not JSON ({first_line(error)}); mend or remove it."
            ) from error
        yield _value(row, f"Line {number}", path, column)


def _of_json(path: File, column: str) -> Iterator[Value]:
    """A list of objects (or of texts), an object of columns, or an object a line."""
    lines = list(text_lines(path))
    text = "".join(line for _, line in lines)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        if len(lines) > 1 and text.lstrip().startswith("{"):
            yield from _of_numbered(lines, path, column)
            return
        raise CrossproofError(f"'{path}' is not JSON ({first_line(error)}); restore it.") from error
    rows = content
    if isinstance(content, dict):
        values = content.get(column)
        columns = list(values.values()) if isinstance(values, dict) else values
        rows = [{column: each} for each in columns] if isinstance(columns, list) else [content]
    if not isinstance(rows, list):
        raise CrossproofError(f"'{path}' holds {text.strip()[:20]}: give a list of objects.")
    for number, row in enumerate(rows, start=1):
        plain = column == "text" and isinstance(row, str)
        yield row if plain else _value(row, f"Row {number}", path, column)


def _value(row: Any, where: str, path: File, column: str) -> Value:
    if not isinstance(row, dict) or column not in row:
        raise CrossproofError(
            f"{where} of '{path}' is not a JSON object with the field '{column}'."
            f"{other_columns(column, row if isinstance(row, dict) else ())}"
        )
    value: Value = row[column]
    if not isinstance(value, str | None) and chat_of(value) is None:
        raise CrossproofError(
            f"{where} of '{path}' holds {type(value).__name__} in '{column}', which is not text; "
            f"mend or remove it.{other_columns(column, set(row) - {column})}"
        )
    return value


def _of_csv(path: File, column: str) -> Iterator[Value]:
    """Cells as they are written; None where a row ends before the column."""
    text = "".join(line for _, line in text_lines(path))
    csv.field_size_limit(sys.maxsize)
    mark = "\t" if ending(path.name) == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=mark, strict=True)
    try:
        header = next(reader, [])
        at = _index(header, path, column)
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        where = f"Line {reader.line_num} of '{path}'"
        raise CrossproofError(f"{where} is not CSV ({first_line(error)}); mend it.") from error
    for number, row in rows:
        if len(row) > len(header):
            raise CrossproofError(
                f"Line {number} of '{path}' has {len(row)} cells, and the file {len(header)} "
                f"columns; mend or remove it."
            )
    cells = [row[at] if at < len(row) else None for _, row in rows]
    if any(cells) and all(map(_is_number, filter(None, cells))):
        raise CrossproofError(
            f"The column '{column}' of '{path}' holds numbers, which is not text."
            f"{other_columns(column, set(header) - {column})}"
        )
    yield from cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _index(names: list[str], path: File, column: str) -> int:
    """Where the column is; CrossproofError unless it is there once."""
    if names.count(column) != 1:
        many = "several columns" if column in names else "no column"
        raise CrossproofError(f"'{path}' has {many} '{column}'.{other_columns(column, names)}")
    return names.index(column)


def _of_arrow(path: File, column: str) -> Iterator[Value]:
    import pyarrow

    batches = _parquet_batches if ending(path.name) == ".parquet" else _ipc_batches
    try:
        for batch in batches(path, column):
            batch.validate(full=True)
            yield from batch.column(0).to_pylist()
    except (*_DAMAGE, pyarrow.ArrowException) as error:
        raise _damaged(path, error) from error


def _parquet_batches(path: File, column: str) -> Iterator[RecordBatch]:
    from pyarrow.parquet import ParquetFile

    with path.open("rb") as opened, ParquetFile(opened) as file:
        at = _text_column(file.schema_arrow, path, column)
        nested = "." in column  # the reader would take it for a path
        for batch in file.iter_batches(columns=None if nested else [column]):
            count_bytes(path, opened)
            yield batch.select([at if nested else 0])


def _ipc_batches(path: File, column: str) -> Iterator[RecordBatch]:
    import pyarrow

    with path.open("rb") as opened:
        try:
            stream = pyarrow.ipc.open_stream(opened)
            schema, batches = stream.schema, iter(stream)
        except (OSError, pyarrow.ArrowInvalid):
            file = pyarrow.ipc.open_file(opened)
            schema, batches = file.schema, map(file.get_batch, range(file.num_record_batches))
        at = _text_column(schema, path, column)
        for batch in batches:
            count_bytes(path, opened)
            yield batch.select([at])


def _text_column(schema: Schema, path: File, column: str) -> int:
    """Where the column is; CrossproofError if it is not there once, or holds no text."""
    from pyarrow import types

    at = _index(schema.names, path, column)
    kind = schema.field(at).type
    value = kind.value_type if types.is_dictionary(kind) else kind
    known = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    if not any(is_kind(value) for is_kind in known) and not is_chat_type(kind):
        raise CrossproofError(
            f"The column '{column}' of '{path}' holds {kind}, which is not text."
            f"{other_columns(column, set(schema.names) - {column})}"
        )
    return at


def _damaged(path: File, error: BaseException) -> CrossproofError:
    return CrossproofError(f"'{path}' cannot be read ({first_line(error)}): restore it.")


READERS: dict[str, Callable[[File, str], Iterator[Value]]] = {
    ".txt": _of_lines,
    ".jsonl": _of_json_lines,
    ".ndjson": _of_json_lines,
    ".json": _of_json,
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".parquet": _of_arrow,
    ".arrow": _of_arrow,
}
"""By ending. A .txt file of a data set; one by itself is cut into documents."""
