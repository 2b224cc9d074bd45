"""Folders of tokens that `crossproof tokenize` writes: shards that are mapped, not read.

FOLDER/crossproof-tokens.json         what was tokenised, and with what; its being there says:
                                      complete
FOLDER/crossproof-tokens.begun.json   the same of a folder that is not complete yet
FOLDER/tokens-N.safetensors           of each split, whole documents end to end:
    SPLIT.tokens     uint16, or uint32 for vocabularies beyond 65,536
    SPLIT.starts     int64, where each document begins in them
    SPLIT.special    int64, where their special tokens stand
    SPLIT.checksums  int64, CRC-32 of every `BLOCK` tokens
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from crossproof.activations.beginning import LongFolder
from crossproof.activations.config import Split
from crossproof.errors import CrossproofError, first_line
from crossproof.lm.model import LanguageModel
from crossproof.lm.vocabulary import tokenizer_hash

KIND = "tokens"
FORMAT = "crossproof-tokens-1"
SPLITS: tuple[Split, ...] = get_args(Split)
BLOCK = 1 << 15
"""Tokens that have one checksum: what is read of a shard is read in such blocks."""
DAMAGE = (SafetensorError, OSError, KeyError, TypeError, ValueError, IndexError)
"""What reading a damaged shard or index raises."""


def token_folder(source: str | Path) -> Path | None:
    """The folder, if a source of text is one of tokens; complete or not."""
    path = Path(os.path.expanduser(source))
    ours = LongFolder(path, KIND)
    return path if os.path.isfile(ours.index) or os.path.isfile(ours.begun) else None


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard is."""
    return folder / f"tokens-{number:05d}.safetensors"


def checksums(tokens: NDArray[Any]) -> NDArray[np.int64]:
    """CRC-32 of every block of tokens."""
    starts = range(0, len(tokens), BLOCK)
    return np.array([zlib.crc32(tokens[s : s + BLOCK].tobytes()) for s in starts], dtype=np.int64)


def checksum(arrays: dict[str, NDArray[Any]]) -> int:
    """CRC-32 of what a shard holds beside its tokens."""
    total = 0
    for name in sorted(arrays):
        if not name.endswith(".tokens"):
            total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
    return total


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """What reading a file of the folder raises, as one sentence."""
    try:
        yield
    except DAMAGE as error:
        raise CrossproofError(
            f"{path} is damaged ({first_line(error)}): restore it, or tokenise again.",
            code="CP-TEXT-FILE",
        ) from error


@dataclass(frozen=True, eq=False)
class Shard:
    """One file of documents; arrays are mapped for as long as they are held."""

    path: Path
    size: int
    """Its bytes."""
    dtype: str
    checksum: int
    tokens: dict[Split, int]
    """Of each split."""

    def check_size(self) -> None:
        """Raises CrossproofError if the file is missing or has another size: it was cut off."""
        with damage(self.path):
            size = self.path.stat().st_size
            if size != self.size:
                raise ValueError(f"it has {size:,} bytes, not {self.size:,}")

    def array(self, name: str) -> NDArray[Any]:
        """One of its arrays."""
        with damage(self.path):
            self.check_size()
            with safe_open(self.path, framework="pt") as opened:
                array: NDArray[Any] = opened.get_tensor(name).numpy()
            return array

    def places(self) -> dict[str, NDArray[Any]]:
        """Everything but the tokens, checked; nobody keeps it."""
        every = (f"{s}.{kind}" for s in SPLITS for kind in ("starts", "special", "checksums"))
        arrays = {name: self.array(name).copy() for name in every}
        with damage(self.path):
            if checksum(arrays) != self.checksum:
                raise ValueError("its checksum differs")
        return arrays

    @cached_property
    def _known(self) -> dict[str, NDArray[np.int64]]:
        return {n: each for n, each in self.places().items() if n.endswith(".checksums")}

    def take(self, split: Split, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at some places of a split, each block of them checked."""
        tokens, known = self.array(f"{split}.tokens"), self._known[f"{split}.checksums"]
        with damage(self.path):
            if tokens.dtype.name != self.dtype or len(tokens) != self.tokens[split]:
                raise ValueError(f"it holds {len(tokens):,} tokens as {tokens.dtype.name}")
            for block in np.unique(places // BLOCK):
                content = tokens[block * BLOCK : (block + 1) * BLOCK].tobytes()
                if zlib.crc32(content) != known[block]:
                    raise ValueError(f"the checksum of its block {block} of {split} differs")
            return tokens[places].astype(np.int64)


@dataclass(frozen=True, eq=False)
class TokenFolder:
    """A complete folder of tokens."""

    path: Path
    about: dict[str, Any]
    shards: tuple[Shard, ...]
    name: str
    """What its reader calls it."""

    @classmethod
    def open(cls, path: Path, model: LanguageModel, name: str = "") -> TokenFolder:
        """Raises CrossproofError for a folder that is not complete, lacks shards or has them cut
        off, or was made with another tokenizer than the model's."""
        own = LongFolder(path, KIND)
        about = own.read("tokenize", FORMAT)
        with damage(own.index):
            opened = cls(path, about, tuple(_shards(path, about)), name or str(path))
            opened._check_model(model)
        for shard in opened.shards:
            shard.check_size()
        return opened

    def _check_model(self, model: LanguageModel) -> None:
        given, made = model.tokenizer, self.about["tokenizer"]
        if given is not None and made != tokenizer_hash(given, model.special_ids):
            raise CrossproofError(
                f"{self.path} was tokenised for '{self.about['model']}', whose tokenizer or "
                f"special tokens '{model.name}' does not have: repeat `crossproof tokenize` with "
                f"--model {model.name} and another --out.",
                code="CP-TOKENS",
            )
        if self.about["largest"] >= model.vocab_size:
            raise CrossproofError(
                f"{self.path} holds tokens outside the vocabulary of '{model.name}' "
                f"({model.vocab_size}); it was made with another tokenizer: tokenise again.",
                code="CP-TOKENS",
            )

    @property
    def digest(self) -> str:
        """The folder's contents in a few digits."""
        return str(self.about["digest"])

    @property
    def start(self) -> int | None:
        """The token that begins documents."""
        start = self.about["start"]
        return None if start is None else int(start)

    def tokens(self, split: Split) -> int:
        """How many tokens a split has."""
        return sum(shard.tokens[split] for shard in self.shards)

    def first(self, split: Split) -> NDArray[np.int64]:
        """Where in a split each shard's tokens begin, and where the last one's end."""
        return np.cumsum([0, *(shard.tokens[split] for shard in self.shards)])

    def where(self, split: Split, kind: str) -> Iterator[NDArray[np.int64]]:
        """Places in the split of the documents' "starts" or the "special" tokens, by shard."""
        for shard, first in zip(self.shards, self.first(split), strict=False):
            yield shard.places()[f"{split}.{kind}"] + first

    def take(self, split: Split, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at places of a split, in any order; each shard is opened once."""
        taken = np.empty(len(places), dtype=np.int64)
        first = self.first(split)
        numbers = np.searchsorted(first, places, side="right") - 1
        for number in np.unique(numbers):
            here = numbers == number
            taken[here] = self.shards[number].take(split, places[here] - first[number])
        return taken


def _shards(path: Path, about: dict[str, Any]) -> Iterator[Shard]:
    for number, each in enumerate(about["shards"]):
        tokens = {split: int(each["tokens"][split]) for split in SPLITS}
        size, total = int(each["bytes"]), int(each["checksum"])
        yield Shard(shard_path(path, number), size, str(about["dtype"]), total, tokens)
