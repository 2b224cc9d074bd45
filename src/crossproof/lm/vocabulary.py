"""A model's tokenizer without its weights, and what tells it from others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_DECIDE = ("model", "normalizer", "pre_tokenizer", "added_tokens")
"""Parts of a fast tokenizer that decide which tokens a text has. Templates and what is put around
texts do not: documents are tokenised without."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What of a language model decides the tokens of a text."""

    name: str
    """The model's."""
    tokenizer: PreTrainedTokenizerBase
    special_ids: frozenset[int]
    """BOS, EOS and padding: never scored."""
    size: int
    """Tokens that the model knows."""

    @property
    def start(self) -> int | None:
        """The token that begins every document: BOS, or else EOS."""
        ids = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return next((i for i in ids if i is not None), None)

    @property
    def hash(self) -> str:
        """16 hexadecimal digits: equal if texts have the same tokens, and the same are special."""
        return tokenizer_hash(self.tokenizer, self.special_ids)


def special_ids(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int
) -> frozenset[int]:
    """The BOS, EOS and PAD ids: the tokenizer's, or without one the configuration's."""
    found = named_ids(config if tokenizer is None else tokenizer)
    return frozenset(i for i in found if 0 <= i < vocab_size)


def named_ids(source: PreTrainedConfig | PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The BOS, EOS and PAD ids that a tokenizer or a configuration names; None: none."""
    found: set[int] = set()
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = getattr(source, key, None)
        found.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(found)


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase, special_ids: Collection[int]) -> str:
    """The `Vocabulary.hash` of a tokenizer with these special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    about: dict[str, Any] = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "special": sorted(special_ids),
    }
    if backend is None:
        about |= {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        parts = json.loads(backend.to_str())
        about |= {part: parts.get(part) for part in _DECIDE}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
