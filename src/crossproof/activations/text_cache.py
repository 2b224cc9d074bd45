"""Texts as folders of tokens that are kept: each is tokenised once, and split by documents."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from crossproof.activations.chats import chat_template
from crossproof.activations.documents import read_documents
from crossproof.activations.sources import DocumentSource
from crossproof.activations.token_folder import FORMAT, TokenFolder
from crossproof.activations.tokenizing import FIRST_DOCUMENTS, SHARD_TOKENS, tokenize_source
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.lm import LanguageModel
from crossproof.lm.vocabulary import Vocabulary

FOLDER = "CROSSPROOF_CACHE"
"""The environment variable that says where they are kept."""
_LOOKED_AT = 10 * FIRST_DOCUMENTS
"""Documents among which `FIRST_DOCUMENTS` must differ, for splits to be made of documents."""


def cache_folder() -> Path:
    """Where tokens are kept: `CROSSPROOF_CACHE`, or else the user's folder of caches."""
    own = os.environ.get(FOLDER)
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "crossproof"
    return (Path(own) if own else usual).expanduser()


def tokens_of(source: str, vocabulary: Vocabulary, model: LanguageModel) -> TokenFolder | None:
    """The source's folder of tokens; None if it has too few different documents to be split by.

    Files of this machine have one in the cache, by what they hold and by the tokenizer, which is
    made by the first process that asks; others, and where nothing may be written, one of this
    process. Raises CrossproofError as `read_documents` and `tokenize_source` do.
    """
    parts = DocumentSource.parse_all(source)
    files = [_files(part) for part in parts]
    if all(files) and (key := _key(parts, files, vocabulary)) is not None:
        kept = cache_folder() / "tokens" / key
        if (lock := _lock(kept)) is not None:
            with lock:
                return _opened(kept, source, vocabulary, model)
    return _opened(_temporary(source, vocabulary), source, vocabulary, model)


def _opened(
    folder: Path, source: str, vocabulary: Vocabulary, model: LanguageModel
) -> TokenFolder | None:
    """The folder, made where it is missing or damaged."""
    try:
        return TokenFolder.open(folder, model, source)
    except CrossproofError as error:
        if error.code == "CP-TOKENS":  # of the model: made anew it would be the same
            raise
        if not _many(source, vocabulary):
            return None
    try:  # a process that was killed may have begun it
        tokenize_source(source, vocabulary, folder)
    except CrossproofError as error:
        if error.code != "CP-OUT":
            raise
        shutil.rmtree(folder)
        tokenize_source(source, vocabulary, folder)
    return TokenFolder.open(folder, model, source)


def _many(source: str, vocabulary: Vocabulary) -> bool:
    documents = read_documents(source, chat_template(vocabulary.tokenizer))
    with warnings.catch_warnings():  # what is left out is told when all is read
        warnings.simplefilter("ignore", CrossproofWarning)
        return len(set(islice(documents, _LOOKED_AT))) >= FIRST_DOCUMENTS


def _files(part: DocumentSource) -> list[Path]:
    """Those that a source consists of; none if it is not of this machine."""
    if part.data_set:
        return sorted(each for each in Path(part.name).rglob("*") if each.is_file())
    return part.files


def _key(
    parts: list[DocumentSource], files: list[list[Path]], vocabulary: Vocabulary
) -> str | None:
    """Equal for texts that have the same documents, in the same order, and the same tokens; None
    if a file cannot be read, of which its reader has a sentence."""
    about: list[Any] = [FORMAT, SHARD_TOKENS, vocabulary.hash, vocabulary.start]
    about.append(str(getattr(vocabulary.tokenizer, "chat_template", None)))
    for part, paths in zip(parts, files, strict=True):
        about.append([part.kind, part.config, part.split, part.column, part.weight])
        try:
            about.append([[each.suffix, _hash(each)] for each in paths])
        except OSError:
            return None
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _lock(kept: Path) -> AbstractContextManager[Any] | None:
    """Held, it keeps other processes from writing the folder; None where nothing may be written."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{kept}.lock").acquire()
    except OSError:
        return None


_made: dict[tuple[str, str], Path] = {}
"""Folders of this process, by source and tokenizer."""


def _temporary(source: str, vocabulary: Vocabulary) -> Path:
    named = source, vocabulary.hash
    if named not in _made:
        _made[named] = Path(tempfile.mkdtemp(prefix="crossproof-tokens-"))
        atexit.register(shutil.rmtree, _made[named], ignore_errors=True)
    return _made[named]
