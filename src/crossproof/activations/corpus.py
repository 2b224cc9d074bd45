"""Corpora as rows of tokens: the bundled one, texts, packed token files, or `datasets`."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.activations.chats import chat_template
from crossproof.activations.config import RowKind as RowKind
from crossproof.activations.config import Split as Split
from crossproof.activations.documents import read_documents
from crossproof.activations.packed import BUNDLED as BUNDLED
from crossproof.activations.packed import SUFFIXES, existing, from_npy, from_safetensors
from crossproof.activations.rows import document_rows
from crossproof.activations.sources import DATASETS_PREFIX, DocumentSource
from crossproof.activations.text_cache import tokens_of
from crossproof.activations.token_folder import TokenFolder, token_folder
from crossproof.activations.token_rows import TokenRows
from crossproof.errors import CrossproofError, CrossproofWarning
from crossproof.lm import LanguageModel
from crossproof.lm.vocabulary import Vocabulary
from crossproof.result import ABSENT


def read_sequences(
    source: str | Path,
    model: LanguageModel,
    context: int,
    split: Split = "train",
    rows: RowKind = "packed",
) -> Int[Tensor, "S T"]:
    """Rows of `context` tokens (int64) of one split of a corpus.

    `source` is "bundled", a packed token file (.safetensors with one tensor per split, or .npy), a
    folder of tokens, or documents as `read_documents` takes them. Texts are tokenised once, into a
    folder that is kept (`text_cache`), each document behind the model's BOS (or else EOS) token,
    and packed end to end; with `rows` "documents" each row is the beginning of a document instead,
    padded where it is short. Texts of too few documents to be split by, and packed tokens without
    splits of their own, hold out their last 5% of rows; the 5% before are for validation. Raises
    CrossproofError when the corpus is missing, damaged, too short for one row, or of another
    tokenizer.
    """
    return open_rows(source, model, context, split, rows)[:]


def open_rows(
    source: str | Path,
    model: LanguageModel,
    context: int,
    split: Split = "train",
    rows: RowKind = "packed",
) -> Int[Tensor, "S T"] | TokenRows:
    """The rows of `read_sequences`; those of a folder of tokens stay on the disk until asked for.

    Errors as there.
    """
    source = os.fspath(source)
    for what, value, known in (
        ("split", split, get_args(Split)),
        ("rows", rows, get_args(RowKind)),
    ):
        if value not in known:
            raise CrossproofError(
                f"{what} is {value!r}: give one of {', '.join(known)}.", code="CP-OPTION"
            )
    if context < 2 or context > model.context:
        raise CrossproofError(
            f"A context of {context} tokens does not suit '{model.name}'; choose 2 to "
            f"{model.context}.",
            code="CP-OPTION",
        )
    if not source:
        raise CrossproofError(
            f"No text was given: add --text, one of '{BUNDLED}', a file ({SUFFIXES}) "
            f"or '{DATASETS_PREFIX}NAME'."
        )
    if source != BUNDLED and (folder := token_folder(source)) is not None:
        return TokenRows(TokenFolder.open(folder, model), split, context, rows)
    if source == BUNDLED:
        with as_file(files("crossproof.lm") / BUNDLED / "corpus.safetensors") as path:
            tokens = from_safetensors(existing(path, BUNDLED), split)
    elif source.endswith(".safetensors"):
        tokens = from_safetensors(existing(Path(source), source), split)
    elif source.endswith(".npy"):
        tokens = from_npy(existing(Path(source), source))
    else:
        vocabulary = _vocabulary(source, model)
        if (kept := tokens_of(source, vocabulary, model)) is not None:
            return TokenRows(kept, split, context, rows)
        tokens = _from_texts(source, vocabulary)
    if rows == "documents":
        made = document_rows(tokens, model, context, source)
    else:
        made = _rows(tokens, source, context)
    has_splits = source == BUNDLED or source.endswith(".safetensors")
    return _checked(made if has_splits else _split(made, source, split), source, model)


EVERY = 2**53
"""So many sequences, or more, mean all there are."""


@dataclass(frozen=True)
class TextSlice:
    """Which sequences of which text: what crosscoders are evaluated, measured and proved on."""

    text: str
    """A corpus as `read_sequences` takes it."""
    split: Split
    sequences: int
    """How many, if the split has them."""
    context: int
    """Tokens a sequence."""
    skip: int = 0
    """Sequences at the beginning of the split that are passed over."""
    rows: RowKind = field(default="packed", metadata=ABSENT)
    """What a sequence is."""
    tokens: int | None = field(default=None, metadata=ABSENT)
    """How many tokens were asked for, where that decided the number of sequences."""

    @classmethod
    def of_tokens(
        cls, text: str, split: Split, tokens: int, context: int, rows: RowKind = "packed"
    ) -> TextSlice:
        """As many sequences as hold `tokens` tokens, one at least."""
        count = max(1, -(-tokens // context))
        return cls(text, split, count, context, rows=rows, tokens=tokens)

    def every(self, model: LanguageModel) -> Int[Tensor, "S T"] | TokenRows:
        """All sequences of the split; those of a folder of tokens stay on the disk."""
        return open_rows(self.text, model, self.context, self.split, self.rows)

    def read(self, model: LanguageModel) -> Int[Tensor, "R T"]:
        """The sequences [R, T]; CrossproofError if none is left, a warning if there are fewer."""
        every = self.every(model)
        if self.skip >= len(every):
            raise CrossproofError(
                f"The {self.split} split has {len(every)} sequences and {self.skip} are skipped: "
                f"skip fewer.",
                code="CP-TEXT-SHORT",
            )
        some = every[self.skip : self.skip + self.sequences]
        if len(some) < self.sequences < EVERY:
            _warn(
                f"The {self.split} split of '{self.text}' has {len(some)} sequences of "
                f"{self.context} tokens, fewer than the {self.sequences} asked for."
            )
        return some


def fitting_context(context: int, model: LanguageModel) -> int:
    """`context`, or the most tokens that the model takes at once, with a warning that says so."""
    if context > model.context:
        _warn(
            f"Sequences have {model.context} tokens instead of {context}: '{model.name}' takes no "
            f"more."
        )
    return min(context, model.context)


def _warn(sentence: str) -> None:
    warnings.warn(sentence, CrossproofWarning, stacklevel=3)


def _rows(tokens: Tensor, source: str, context: int) -> Int[Tensor, "S T"]:
    """Cut a stream, or each packed row, into rows of `context`; what is left over is dropped."""
    per_row = tokens.shape[-1] // context
    if per_row == 0 or tokens.numel() == 0:
        raise _too_short(source, min(tokens.shape[-1], tokens.numel()), context)
    return tokens.to(torch.int64)[..., : per_row * context].reshape(-1, context)


def _vocabulary(source: str, model: LanguageModel) -> Vocabulary:
    """The model's, for a source that can hold documents."""
    for parsed in DocumentSource.parse_all(source):
        if not parsed.data_set and not parsed.files:
            existing(Path(parsed.name), str(parsed))
        if not parsed.known:
            raise CrossproofError(f"The corpus '{parsed}' has no known ending; use {SUFFIXES}.")
    if model.tokenizer is None:
        raise CrossproofError(
            f"'{model.name}' has no tokenizer for the text of '{source}'; put its tokenizer files "
            f"into the model's folder, or give packed tokens.",
            code="CP-TOKENIZER",
        )
    return Vocabulary(model.name, model.tokenizer, model.special_ids, model.vocab_size)


def _from_texts(source: str, vocabulary: Vocabulary) -> Int[Tensor, " N"]:
    """All of it, in memory."""
    documents = list(read_documents(source, chat_template(vocabulary.tokenizer)))
    if not documents:
        return torch.empty(0, dtype=torch.int64)
    start = [] if vocabulary.start is None else [vocabulary.start]
    encoded = vocabulary.tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = [np.array([*start, *document], dtype=np.int32) for document in encoded]
    return torch.from_numpy(np.concatenate(pieces))


def _split(rows: Int[Tensor, "S T"], source: str, split: Split) -> Int[Tensor, "R T"]:
    n = len(rows)
    share = -(-n // 20)
    bounds = {
        "train": (0, n - 2 * share),
        "validation": (n - 2 * share, n - share),
        "held_out": (n - share, n),
    }
    first, last = bounds[split]
    if first < 0 or first >= last:
        raise CrossproofError(
            f"The corpus '{source}' fills only {n} rows, too few for a '{split}' split; use a "
            f"longer text or a shorter context.",
            code="CP-TEXT-SHORT",
        )
    return rows[first:last]


def _too_short(source: str, n_tokens: int, context: int) -> CrossproofError:
    return CrossproofError(
        f"The corpus '{source}' is too short: {n_tokens} tokens do not fill one row of {context}; "
        f"use a longer text or a shorter context.",
        code="CP-TEXT-SHORT",
    )


def _checked(rows: Int[Tensor, "S T"], source: str, model: LanguageModel) -> Int[Tensor, "S T"]:
    if int(rows.min()) < 0 or int(rows.max()) >= model.vocab_size:
        raise CrossproofError(
            f"The corpus '{source}' holds tokens outside the vocabulary of '{model.name}' "
            f"({model.vocab_size}); it was made with another tokenizer.",
            code="CP-TOKENS",
        )
    return rows
