"""Documents into a folder of tokens, going on where a stopped call has left off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, count, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from crossproof.activations.beginning import LongFolder
from crossproof.activations.chats import chat_template
from crossproof.activations.config import Split
from crossproof.activations.documents import read_documents
from crossproof.activations.sources import DocumentSource
from crossproof.activations.token_folder import (
    FORMAT,
    KIND,
    SPLITS,
    checksum,
    checksums,
    damage,
    shard_path,
)
from crossproof.errors import CrossproofError
from crossproof.files import atomic_file
from crossproof.lm.vocabulary import Vocabulary

SHARD_TOKENS = 1 << 25
"""A shard is closed when it holds so many."""
FIRST_DOCUMENTS = 100
"""The first shard, which decides the splits, holds so many documents at least."""
_DOCUMENTS, _CHARACTERS = 1000, 1 << 22
"""What is tokenised at once: so many documents, or fewer if they are long."""

Tokens = NDArray[Any]
Tell = Callable[[int, int], None]
"""Called with how many documents and tokens there are."""


@dataclass
class _Position:
    """How far a source has been read: what a shard remembers, so that the next call goes on."""

    documents: int = 0
    text: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))
    """The hash of all texts so far."""
    cuts: tuple[int, int] | None = None
    """Digests below the first are held out, below the second for validation."""

    def take(self, document: str) -> None:
        """Counts a document in."""
        self.text.update(f"{len(document)} {document}".encode())
        self.documents += 1


def tokenize_source(
    source: str,
    vocabulary: Vocabulary,
    folder: Path,
    shard_tokens: int = SHARD_TOKENS,
    tell: Tell = lambda documents, tokens: None,
) -> dict[str, Any]:
    """Writes the folder, and returns what its index says; shards that are there already stay.

    Each document stands behind the token that begins documents, whole in one shard and one split:
    of the different documents of the first shard, the twentieth with the lowest digests is held
    out and the next is for validation, and later documents follow the same two digests, so that
    equal documents are in one split. Raises CrossproofError as `read_documents` does, if the folder
    holds anything else, and if source or options are not those it was begun with.
    """
    about = {
        "format": FORMAT,
        "source": source,
        "model": vocabulary.name,
        "tokenizer": vocabulary.hash,
        "start": vocabulary.start,
        "dtype": "uint16" if _largest_id(vocabulary) < 1 << 16 else "uint32",
        "shard_tokens": shard_tokens,
    }
    documents = read_documents(source, chat_template(vocabulary.tokenizer))
    one = next(documents, None)  # what cannot be read leaves no folder
    if one is None:
        raise CrossproofError(f"'{source}' holds no document: give another.")
    documents = chain([one], documents)
    LongFolder(folder, KIND).begin(about)
    first, position = _resume(folder, documents)
    shards = _shards(documents, vocabulary, about, position, tell)
    for number, arrays in enumerate(shards, first):
        _write(shard_path(folder, number), arrays, position)
    return _finish(folder, about, position)


def size_of(source: str) -> int:
    """Bytes of the source's files; 0 if not all are files of this machine."""
    parts = DocumentSource.parse_all(source)
    if not all(part.files for part in parts):
        return 0
    return sum(path.stat().st_size for part in parts for path in part.files)


def _largest_id(vocabulary: Vocabulary) -> int:
    return max(vocabulary.size, len(vocabulary.tokenizer)) - 1


def _resume(folder: Path, documents: Iterator[str]) -> tuple[int, _Position]:
    """How many shards are there, and the position behind them; the documents move on to it."""
    there, position = _shard_paths(folder), _Position()
    if not there:
        return 0, position
    last = there[-1]
    known = _metadata(last)
    with damage(last):
        end, text = int(known["documents"]), known["text"]
        held_out, validation = known["cuts"]
        position.cuts = int(held_out), int(validation)
    for document in islice(documents, end):
        position.take(document)
    if position.documents != end or position.text.hexdigest() != text:
        raise CrossproofError(
            f"The text is not what {folder} was begun with: its first {end:,} documents have "
            f"changed; bring them back, or give another --out.",
            code="CP-OUT",
        )
    return len(there), position


def _metadata(path: Path) -> dict[str, Any]:
    """What `_write` says of a shard in its header."""
    with damage(path), safe_open(path, framework="pt") as opened:
        known: dict[str, Any] = json.loads(opened.metadata()["about"])
        return known


def _shards(
    documents: Iterator[str],
    vocabulary: Vocabulary,
    about: Mapping[str, Any],
    position: _Position,
    tell: Tell,
) -> Iterator[dict[str, Tokens]]:
    """The arrays of one shard after the other; `position` is then behind its documents."""
    held: list[Tokens] = []
    size = total = 0
    while some := _some(documents):
        encoded = _encoded(some, vocabulary, np.dtype(about["dtype"]))
        for document, tokens in zip(some, encoded, strict=True):
            position.take(document)
            held.append(tokens)
            size += len(tokens)
            if size >= about["shard_tokens"] and position.documents >= FIRST_DOCUMENTS:
                yield _dealt(held, vocabulary, position)
                held, size = [], 0
        total += sum(map(len, encoded))
        tell(position.documents, total)
    if held:
        yield _dealt(held, vocabulary, position)


def _some(documents: Iterator[str]) -> list[str]:
    taken: list[str] = []
    characters = 0
    while len(taken) < _DOCUMENTS and characters < _CHARACTERS:
        document = next(documents, None)
        if document is None:
            break
        taken.append(document)
        characters += len(document)
    return taken


def _encoded(documents: list[str], vocabulary: Vocabulary, dtype: np.dtype[Any]) -> list[Tokens]:
    begin = [] if vocabulary.start is None else [vocabulary.start]
    rows = vocabulary.tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.concatenate([begin, row]).astype(dtype) for row in rows]


def _dealt(
    documents: list[Tokens], vocabulary: Vocabulary, position: _Position
) -> dict[str, Tokens]:
    """Documents dealt out to the splits by their digests, and where things stand in each."""
    digests = np.array([_digest(each) for each in documents], dtype=np.uint64)
    if position.cuts is None:
        distinct = np.unique(digests)
        share = min(-(-len(distinct) // 20), (len(distinct) - 1) // 2)
        position.cuts = int(distinct[share]), int(distinct[2 * share])
    held_out, validation = (digests < np.uint64(cut) for cut in position.cuts)
    chosen = {"held_out": held_out, "validation": validation & ~held_out, "train": ~validation}
    special = sorted(vocabulary.special_ids)
    arrays: dict[str, Tokens] = {}
    for split in SPLITS:
        own = [documents[at] for at in np.flatnonzero(chosen[split])]
        tokens = np.concatenate(own) if own else documents[0][:0]
        ends = np.cumsum([0, *map(len, own)])
        arrays |= {
            f"{split}.tokens": tokens,
            f"{split}.starts": ends[:-1].astype(np.int64),
            f"{split}.special": np.flatnonzero(np.isin(tokens, special)).astype(np.int64),
            f"{split}.checksums": checksums(tokens),
        }
    return arrays


def _digest(tokens: Tokens) -> int:
    content = tokens.astype("<u4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _write(path: Path, arrays: Mapping[str, Tokens], position: _Position) -> None:
    about = {
        "documents": position.documents,
        "text": position.text.hexdigest(),
        "cuts": position.cuts,
        "checksum": checksum(dict(arrays)),
        "largest": max(int(arrays[f"{split}.tokens"].max(initial=0)) for split in SPLITS),
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with atomic_file(path) as temporary:  # one entry: the library orders several as it likes
        save_file(tensors, temporary, {"about": json.dumps(about)})


def _finish(folder: Path, about: Mapping[str, Any], position: _Position) -> dict[str, Any]:
    """Writes the index from what the shards say."""
    digest = hashlib.sha256(f"{about['tokenizer']} {about['start']} {about['dtype']}".encode())
    splits = {split: {"documents": 0, "tokens": 0, "scored": 0} for split in SPLITS}
    shards, largest = [], 0
    for path in _shard_paths(folder):
        known, tokens = _metadata(path), {}
        for split, (length, documents, special) in _lengths(path).items():
            tokens[split] = length
            splits[split]["documents"] += documents
            splits[split]["tokens"] += length
            splits[split]["scored"] += length - special
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        largest = max(largest, int(known["largest"]))
        size = path.stat().st_size
        shards.append({"bytes": size, "checksum": int(known["checksum"]), "tokens": tokens})
    index = {**about, "documents": position.documents, "largest": largest, "splits": splits}
    index |= {"digest": digest.hexdigest()[:16], "shards": shards}
    LongFolder(folder, KIND).finish(index)
    return index


def _shard_paths(folder: Path) -> list[Path]:
    """The shards that are there."""
    return list(takewhile(Path.exists, (shard_path(folder, number) for number in count())))


def _lengths(path: Path) -> dict[Split, tuple[int, ...]]:
    """Tokens, documents and special tokens of each split of a shard."""
    kinds = ("tokens", "starts", "special")
    with damage(path), safe_open(path, framework="pt") as opened:
        return {
            split: tuple(opened.get_slice(f"{split}.{kind}").get_shape()[0] for kind in kinds)
            for split in SPLITS
        }
