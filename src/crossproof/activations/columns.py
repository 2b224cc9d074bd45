"""One column of text of a table or a data set, read by the `datasets` library."""

from __future__ import annotations

import codecs
import errno
import glob
import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path

import pyarrow
import yaml
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError
from datasets.table import CastError

from crossproof.activations.sources import TABLES, DocumentSource, other_columns
from crossproof.errors import CrossproofError, first_line

_ERRORS = (
    *(DatasetsError, pyarrow.ArrowException, yaml.YAMLError, StopIteration, AssertionError),
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
)
"""What `datasets` lets through of itself and of the readers below it, when files are damaged."""
_STRINGS = ("string", "large_string", "string_view", "null")
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.ENOSPC)


def read_column(source: DocumentSource) -> Iterator[str | None]:
    """The values of the source's column, row by row; None where a row has none.

    Raises CrossproofError naming the data set and the file, split, configuration or column.
    """
    with _errors_of(source):
        data = _opened(source)
    others = [name for name in data.column_names if name != source.column]
    if len(others) == len(data.column_names):
        raise CrossproofError(
            f"'{source}' has no column '{source.column}'.{other_columns(source.column, others)}"
        )
    feature = data.features[source.column]
    kind = getattr(feature, "dtype", type(feature).__name__)
    if kind not in _STRINGS:
        raise CrossproofError(
            f"The column '{source.column}' of '{source}' holds {kind}, which is not text."
            f"{other_columns(source.column, others)}"
        )
    with _errors_of(source):
        for batch in data.select_columns([source.column]).iter(batch_size=1000):
            yield from batch[source.column]


def _opened(source: DocumentSource) -> Dataset:
    """The split; files and folders by their full path, so that no name stands for a builder."""
    path = Path(os.path.expanduser(source.name))
    if not source.name:
        raise CrossproofError("'hf:' names no data set: give hf:NAME, or hf:FOLDER.")
    if os.path.isfile(path):
        if path.suffix not in TABLES:
            raise CrossproofError(
                f"'{source}' is not a file of a known kind; use {', '.join(TABLES)}."
            )
        if path.stat().st_size == 0:
            raise CrossproofError(f"'{source}' is empty: give another.")
        # pandas takes the words NA, None and null for missing values.
        as_it_is = {"keep_default_na": False} if path.suffix == ".csv" else {}
        _refuse_null([path], source)
        files = glob.escape(os.path.abspath(path))
        return load_dataset(TABLES[path.suffix], data_files=files, split="train", **as_it_is)
    if any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json")):
        saved = load_from_disk(str(path))
        splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
        if source.split not in splits:
            raise ValueError(f"Unknown split '{source.split}', only {list(splits)}")
        return splits[source.split]
    if os.path.isdir(path) and glob.has_magic(str(path)):
        raise CrossproofError(
            f"The folder '{source}' has *, ? or [ in its name, which `datasets` takes for a "
            f"pattern: rename it."
        )
    if os.path.isdir(path):
        _refuse_null(path.rglob("*.json*"), source)
    name = os.path.abspath(path) if os.path.isdir(path) else source.name
    return load_dataset(name, source.config, split=source.split)


def _refuse_null(files: Iterable[Path], source: DocumentSource) -> None:
    """Refuses JSON that begins with null: of such files pyarrow stops the whole process."""
    for file in files:
        if file.suffix not in (".json", ".jsonl") or not file.is_file():
            continue
        with file.open("rb") as opened:
            begin = opened.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if begin.startswith(b"null"):
            raise CrossproofError(f"'{file.name}' of '{source}' begins with null: give objects.")


@contextmanager
def _errors_of(source: DocumentSource) -> Iterator[None]:
    """Errors of `datasets` as one sentence; what it logs is printed if nothing went wrong."""
    logger, records = logging.getLogger("datasets"), BufferingHandler(capacity=10**6)
    handlers, logger.handlers = logger.handlers, [records]
    try:
        yield
    except _ERRORS as error:
        raise CrossproofError(_sentence(source, error)) from error
    finally:
        logger.handlers = handlers
    for record in records.buffer:
        logger.handle(record)


def _sentence(source: DocumentSource, error: BaseException) -> str:
    """What is wrong with the source and what to do about it, in one sentence."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    said, reason = str(error), " ".join(first_line(causes[-1]).split())
    file = next(filter(None, map(_file, reversed(causes))), "")
    where = f"{file} of '{source}'" if file and file[1:] not in f"{source}'" else f"'{source}'"
    for cause in causes:
        if isinstance(cause, CastError):
            return (
                f"The files of '{source}' do not have the same columns ({cause.details()}; "
                f"{file or reason}): give one of them, or a folder of those that have."
            )
    for words, sentence in (
        ("Unknown split", f"has no split '{source.split}', only {{}}: add ',split=NAME'"),
        ("Bad split", f"has no split '{source.split}', only {{}}: add ',split=NAME'"),
        ("Config name is missing", "has several configurations ({}): add ',config=NAME'"),
        ("BuilderConfig", f"has no configuration '{source.config}', only {{}}"),
        ("corresponds to no data", "has no rows: give another"),
        ("BatchSize must be greater than 0", "has no rows: give another"),
        ("ataset script", f"needs a loading script, which is never run ({reason}): give files"),
        ("is a gated", "is gated: accept its conditions on its page and log in (`hf auth login`)"),
    ):
        if words in said or words in reason:
            return f"'{source}' {sentence.format(_listed(said))}."
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"'{source}' cannot be cached ({reason}): set HF_HOME to a writable folder."
    away = "check the name, or the network, or log in (`hf auth login`)"
    remedy = "restore it" if os.path.exists(source.name) else away
    return f"{where} cannot be read ({reason}): {remedy}."


def _listed(said: str) -> str:
    """The names in the last list of a message."""
    lists = re.findall(r"\[([^\[\]]*)\]", said)
    return ", ".join(re.findall(r"'([^']*)'", lists[-1])) if lists else "others"


def _file(error: BaseException) -> str:
    """The file that a builder of `datasets` was reading: its exceptions do not name it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [frame.f_locals.get("file") for frame in frames if "packaged" in _code(frame)]
    return next((f"'{os.path.basename(file)}'" for file in files if isinstance(file, str)), "")


def _code(frame: object) -> str:
    return str(getattr(getattr(frame, "f_code", None), "co_filename", ""))
