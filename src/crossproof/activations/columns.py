"""One column of text of a data set: which files it has is asked of the `datasets` library."""

from __future__ import annotations

import errno
import glob
import logging
import lzma
import os
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from logging.handlers import BufferingHandler
from pathlib import Path

import pyarrow
import yaml
from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    ReadInstruction,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from huggingface_hub import snapshot_download

from crossproof.activations.chats import is_chat_type
from crossproof.activations.opening import RemoteFile
from crossproof.activations.sources import DocumentSource, ending, other_columns
from crossproof.activations.tables import READERS, Value, column_of
from crossproof.errors import CrossproofError, CrossproofWarning, first_line
from crossproof.files import refuse_pointer

_ERRORS = (
    *(DatasetsError, pyarrow.ArrowException, yaml.YAMLError, StopIteration, AssertionError),
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError),
    *(EOFError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, zlib.error),
)
"""What `datasets` lets through of itself and of the readers below it, when files are damaged."""
_STRINGS = ("string", "large_string", "string_view", "null")
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.ENOSPC)
_NO_MATTER = {"name", "version", "data_dir", "data_files", "description", "features"}
"""Settings of a configuration under which its files still are what their endings say."""
_INFOS = "dataset_infos.json"

Files = Mapping[str, list[str]]
"""By split, paths and addresses."""


def data_set_column(source: DocumentSource) -> Iterator[Value]:
    """The values of a data set's column, row by row; None where a row has none.

    Every file is read as it is: none is cast to what another one holds, so that 3 never becomes
    "3". Raises CrossproofError naming the data set and the file, split, configuration or column.
    """
    path = Path(os.path.expanduser(source.name))
    if not source.name:
        raise CrossproofError("'hf:' names no data set: give hf:NAME, or hf:FOLDER.")
    if os.path.isfile(path):
        return column_of(path, source.column)
    if any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json")):
        return _of_data_set(_saved(path, source), source)
    if os.path.isdir(path) and glob.has_magic(str(path)):
        raise CrossproofError(
            f"The folder '{source}' has *, ? or [ in its name, which `datasets` takes for a "
            f"pattern: rename it."
        )
    with _errors_of(source):
        builder = _builder(os.path.abspath(path) if os.path.isdir(path) else source.name, source)
        files = _plain_files(builder)
        if files:
            _name_others(path, files, source)
            return _of_files(files, source)
        data = load_dataset(builder.base_path, source.config, split=source.split)
    return _of_data_set(data, source)


def _builder(name: str, source: DocumentSource) -> DatasetBuilder:
    """What knows the files; without a network, of those that were downloaded before."""
    try:
        return load_dataset_builder(name, source.config)
    except ConnectionError:
        with suppress(OSError, ValueError):
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
            return load_dataset_builder(folder, source.config)
        raise


def _plain_files(builder: DatasetBuilder) -> Files:
    """The files, if `column_of` reads them all and no configuration says to read them otherwise."""
    config = builder.config
    files = {str(split): list(each) for split, each in (config.data_files or {}).items()}
    endings = {ending(file) for each in files.values() for file in each}
    usual = vars(type(config)()) | {"sep": "\t" if endings == {".tsv"} else ","}
    more = {name for name, value in vars(config).items() if value != usual.get(name, value)}
    return files if endings <= READERS.keys() and more <= _NO_MATTER else {}


def _name_others(folder: Path, files: Files, source: DocumentSource) -> None:
    """Warns of a folder's files of text that are none of the data set's: it has one kind alone."""
    taken = {os.path.basename(file) for each in files.values() for file in each}
    there = (name for _, _, names in os.walk(folder) for name in names if not name.startswith("."))
    others = sorted(n for n in there if ending(n) in READERS and n not in {*taken, _INFOS})
    if others and source.config is None:
        kind = ", ".join(sorted({ending(file) for file in taken}))
        sentence = f"'{source}' is read from its {kind} files: {', '.join(others[:5])} left out."
        warnings.warn(sentence, CrossproofWarning, stacklevel=5)


def _of_files(files: Files, source: DocumentSource) -> Iterator[Value]:
    if source.split in files:
        return _rows(files[source.split], source)
    split = "+".join(files) if source.split == "all" else source.split
    rows = {name: list(_rows(files[name], source)) if name in split else [] for name in files}
    parts = ReadInstruction.from_spec(split).to_absolute({n: len(each) for n, each in rows.items()})
    return chain.from_iterable(rows[part.splitname][part.from_ : part.to] for part in parts)


def _rows(files: list[str], source: DocumentSource) -> Iterator[Value]:
    """Row by row: of a file elsewhere only what is asked for is fetched."""
    opened = (RemoteFile(file) if "://" in file else Path(file) for file in files)
    return chain.from_iterable(column_of(file, source.column) for file in opened)


def _saved(path: Path, source: DocumentSource) -> Dataset:
    """The split of what `save_to_disk` wrote."""
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        refuse_pointer(file)
    with _errors_of(source):
        saved = load_from_disk(str(path))
        splits = saved if isinstance(saved, DatasetDict) else {str(saved.split or "train"): saved}
        if source.split not in splits:
            raise ValueError(f"Unknown split '{source.split}', only {list(splits)}")
        return splits[source.split]


def _of_data_set(data: Dataset, source: DocumentSource) -> Iterator[Value]:
    others = [name for name in data.column_names if name != source.column]
    if len(others) == len(data.column_names):
        raise CrossproofError(
            f"'{source}' has no column '{source.column}'.{other_columns(source.column, others)}"
        )
    feature = data.features[source.column]
    kind = getattr(feature, "dtype", type(feature).__name__)
    if kind not in _STRINGS and not is_chat_type(data.data.schema.field(source.column).type):
        raise CrossproofError(
            f"The column '{source.column}' of '{source}' holds {kind}, which is not text."
            f"{other_columns(source.column, others)}"
        )
    with _errors_of(source):
        for batch in data.select_columns([source.column]).iter(batch_size=1000):
            yield from batch[source.column]


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
    for words, sentence in (
        ("Unknown split", f"has no split '{source.split}', only {{}}: add ',split=NAME'"),
        ("Bad split", f"has no split '{source.split}', only {{}}: add ',split=NAME'"),
        (
            "Unrecognized instruction",
            f"has no split '{source.split}': write NAME, NAME[:10%] or A+B",
        ),
        ("Config name is missing", "has several configurations ({}): add ',config=NAME'"),
        ("BuilderConfig", f"has no configuration '{source.config}', only {{}}"),
        ("corresponds to no data", "has no rows: give another"),
        ("Percent slice", f"has no split '{source.split}' (a percentage is 0% to 100%): mend it"),
        ("data files found", "holds no files of a known kind: give a folder that does"),
        ("any data files", "holds no files of a known kind: give a folder that does"),
        ("the same data file format", "has splits of several kinds of files: give one kind"),
        ("ataset script", f"needs a loading script, which is never run ({reason}): give files"),
        ("is a gated", "is gated: accept its conditions on its page and log in (`hf auth login`)"),
    ):
        if words in said or words in reason:
            return f"'{source}' {sentence.format(_listed(said))}."
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        return f"'{source}' cannot be cached ({reason}): set HF_HOME to a writable folder."
    if isinstance(causes[-1], ImportError):
        return f"'{source}' cannot be read ({reason}): install that, or give text files."
    if os.path.exists(source.name):
        return f"'{source}' cannot be read ({reason}): restore it."
    if source.name.count("/") > 1:
        reason = "data sets are named OWNER/NAME, a configuration by ',config=NAME'"
    return (
        f"'{source}' cannot be read ({reason}): check the name, or the network, or log in "
        f"(`hf auth login`)."
    )


def _listed(said: str) -> str:
    """The names in the last list of a message."""
    lists = re.findall(r"\[([^\[\]]*)\]", said)
    return ", ".join(re.findall(r"'([^']*)'", lists[-1])) if lists else "others"
