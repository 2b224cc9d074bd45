"""Reading the documents of a text file, a jsonl file, or a data set of the `datasets` library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import load_dataset

from crossproof.errors import CrossproofError, nearest

SEPARATOR = "<|endoftext|>"
FIELD = "text"
DATASETS_PREFIX = "hf:"


def read_documents(source: str) -> Iterator[str]:
    """The non-empty documents of a .txt file, a .jsonl file, or "hf:NAME", in order.

    A text file is cut at every "<|endoftext|>"; the others have a field "text". Raises
    CrossproofError naming the file, and the line where one is malformed.
    """
    if source.startswith(DATASETS_PREFIX):
        documents = _from_datasets(source.removeprefix(DATASETS_PREFIX))
    elif source.endswith(".jsonl"):
        documents = _from_jsonl(Path(source))
    else:
        documents = _from_text(Path(source))
    return (document for document in documents if document)


def _from_text(path: Path) -> Iterator[str]:
    pending: list[str] = []
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                head, *rest = line.split(SEPARATOR)
                pending.append(head)
                for piece in rest:
                    yield "".join(pending).strip()
                    pending = [piece]
    except UnicodeDecodeError as error:
        raise CrossproofError(
            f"The corpus '{path}' is not UTF-8 text; convert it first."
        ) from error
    yield "".join(pending).strip()


def _from_jsonl(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                document = json.loads(line)[FIELD]
            except (ValueError, KeyError, TypeError) as error:
                raise CrossproofError(
                    f"Line {number} of '{path}' is not a JSON object with the field '{FIELD}'."
                ) from error
            if not isinstance(document, str):
                raise CrossproofError(f"In line {number} of '{path}', '{FIELD}' is not a string.")
            yield document


def _from_datasets(name: str) -> Iterator[str]:
    try:
        data = load_dataset(name, split="train")
    except (OSError, ValueError) as error:
        raise CrossproofError(
            f"The data set '{name}' with a split 'train' cannot be read; check the name, or the "
            f"network."
        ) from error
    if FIELD not in data.column_names:
        raise CrossproofError(
            f"The data set '{name}' has no column '{FIELD}'.{nearest(FIELD, data.column_names)}"
        )
    for row in data:
        yield str(row[FIELD])
