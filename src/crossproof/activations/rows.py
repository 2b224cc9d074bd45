"""A stream of tokens as rows: cut end to end, or one row a document."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel


def document_rows(
    tokens: Int[Tensor, "..."], model: LanguageModel, context: int, source: str
) -> Int[Tensor, "S T"]:
    """One row a document: its first `context` tokens, padded with the token that begins documents.

    A document begins at each of the model's BOS (or else EOS) tokens; padding is that token again,
    which is never scored. Raises CrossproofError if the model has none, or none is in the text.
    """
    start = start_token(model)
    if start is None:
        raise CrossproofError(
            f"'{model.name}' has no BOS or EOS token to tell the documents of '{source}' by; use "
            f"packed rows."
        )
    stream = tokens.flatten().to(torch.int64)
    begins = (stream == start).nonzero()[:, 0]
    lengths = torch.diff(begins, append=torch.tensor([len(stream)]))
    begins, lengths = begins[lengths > 1], lengths[lengths > 1]  # no empty documents
    if not len(begins):
        raise CrossproofError(
            f"'{source}' has no document behind the token {start}, which begins them for "
            f"'{model.name}'; use packed rows."
        )
    columns = torch.arange(context)
    rows = stream[(begins[:, None] + columns).clamp_max(len(stream) - 1)]
    return rows.where(columns < lengths[:, None], torch.tensor(start))


def start_token(model: LanguageModel) -> int | None:
    """The BOS token, or else the EOS token: the tokenizer's, or without one any special token."""
    if model.tokenizer is None:
        return min(model.special_ids, default=None)
    ids = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    return next((i for i in ids if i is not None), None)
