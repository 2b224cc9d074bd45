"""Texts as rows of tokens: one document a row, so that a score belongs to a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.activations import read_sequences
from crossproof.activations.chats import chat_template
from crossproof.activations.corpus import BUNDLED, Split
from crossproof.activations.documents import read_documents, well_formed
from crossproof.activations.sources import DATASETS_PREFIX, LINES, TABLES, DocumentSource
from crossproof.activations.token_folder import TokenFolder, token_folder
from crossproof.activations.token_rows import TokenRows
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel

_DOCUMENTS = (*LINES, *TABLES)


@dataclass(frozen=True, eq=False)
class TextRows:
    """Texts [S, T], each behind the model's BOS (or else EOS) and padded on the right.

    Padding is a special token: it is never scored, and a causal model never looks at it.
    """

    tokens: Int[Tensor, "S T"]
    cut: int
    """Texts that were longer than the context and lost their ends."""
    source: str = "given in memory"
    """Where they came from."""

    def __len__(self) -> int:
        return len(self.tokens)


def encode_texts(
    texts: Sequence[str], model: LanguageModel, context: int | None = None
) -> TextRows:
    """Texts as rows of at most `context` tokens (the model's own context if None).

    Raises CrossproofError if there are no texts, one is empty, the model has no tokenizer, or no
    special token to pad with.
    """
    if not texts:
        raise CrossproofError("There are no texts; give at least one.")
    if model.tokenizer is None:
        raise CrossproofError(
            f"'{model.name}' has no tokenizer; put its tokenizer files into the model's folder.",
            code="CP-TOKENIZER",
        )
    if not model.special_ids:
        raise CrossproofError(
            f"'{model.name}' has no BOS, EOS or padding token to pad texts with; add one to its "
            f"tokenizer.",
            code="CP-TOKENIZER",
        )
    no_text = next((index for index, text in enumerate(texts) if not isinstance(text, str)), None)
    if no_text is not None:
        raise CrossproofError(f"Text {no_text + 1} is not a string; leave it out.")
    rows = model.tokenizer(list(map(well_formed, texts)), add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    empty = next((index for index, row in enumerate(rows) if not row), None)
    if empty is not None:
        raise CrossproofError(f"Text {empty + 1} is empty; leave it out.")
    limit = min(context or model.context, model.context)
    start = _start(model)
    whole = [[*start, *row] for row in rows]
    width = min(limit, max(map(len, whole)))
    tokens = torch.full((len(whole), width), min(model.special_ids), dtype=torch.int64)
    for index, row in enumerate(whole):
        kept = row[:width]
        tokens[index, : len(kept)] = torch.tensor(kept)
    return TextRows(tokens, sum(len(row) > limit for row in whole))


def read_texts(
    source: str, model: LanguageModel, context: int | None = None, split: Split = "held_out"
) -> TextRows:
    """The documents of a source that `read_documents` takes, or of a split of a folder of tokens, a
    row each; or the rows of a split of packed tokens ("bundled", .safetensors, .npy), which have no
    documents.

    Raises CrossproofError as `encode_texts` and `read_sequences` do, naming the source.
    """
    if (folder := token_folder(source)) is not None:
        length = min(context or model.context, model.context)
        return _of_folder(TokenFolder.open(folder, model), length, split)
    parts = DocumentSource.parse_all(source)
    if not all(parsed.known for parsed in parts):
        rows = read_sequences(source, model, context or model.context, split)
        return TextRows(rows, 0, source)
    if not all(parsed.data_set or parsed.files for parsed in parts):
        raise CrossproofError(
            f"There is no text '{source}'; give '{BUNDLED}', a file ({', '.join(_DOCUMENTS)}) or "
            f"'{DATASETS_PREFIX}NAME'."
        )
    documents = list(read_documents(source, model.tokenizer and chat_template(model.tokenizer)))
    if not documents:
        raise CrossproofError(f"'{source}' holds no text; give one with at least one document.")
    return replace(encode_texts(documents, model, context), source=source)


def _of_folder(folder: TokenFolder, context: int, split: Split) -> TextRows:
    """The documents of a split of a folder of tokens."""
    rows = TokenRows(folder, split, context, "documents")
    lengths = rows.document_lengths
    return TextRows(rows[:][:, : lengths.max()], int((lengths > context).sum()), str(folder.path))


def text_rows(
    texts: str | Sequence[str], model: LanguageModel, context: int, split: Split
) -> TextRows:
    """Documents in memory, or those of a source; errors as `encode_texts` and `read_texts`."""
    if isinstance(texts, str):
        return read_texts(texts, model, context, split)
    return encode_texts(texts, model, context)


def _start(model: LanguageModel) -> list[int]:
    ids = (getattr(model.tokenizer, name, None) for name in ("bos_token_id", "eos_token_id"))
    return [i for i in ids if i is not None][:1]
