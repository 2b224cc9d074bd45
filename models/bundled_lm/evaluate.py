"""Held-out losses of the bundled model, per token and per character."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPTNeoForCausalLM

from models.pretraining import held_out_loss

from . import text


@dataclass(frozen=True)
class HeldOutLoss:
    """A mean next-token loss in nats, and the text it was measured on."""

    per_token: float
    tokens: int
    characters: int

    @property
    def per_character(self) -> float:
        """Nats per character; `<|endoftext|>` is a token without characters."""
        return self.per_token * self.tokens / self.characters


@dataclass(frozen=True)
class HeldOutText:
    """Held-out stories, plain or behind prompts, packed into [n, context] windows."""

    windows: Tensor
    tokens: int
    characters: int

    @classmethod
    def of(cls, documents: list[str], tokenizer: Tokenizer, context: int) -> HeldOutText:
        """Packs `documents`; the rest that does not fill a window is left out of the windows."""
        stream = text.pack(tokenizer, documents)
        windows = stream[: len(stream) // context * context].reshape(-1, context)
        characters = sum(len(document) for document in documents)
        return cls(torch.from_numpy(windows), len(stream), characters)

    def loss(self, model: GPTNeoForCausalLM) -> HeldOutLoss:
        """The mean loss over all windows (the first token of a window is not predicted)."""
        return HeldOutLoss(held_out_loss(model, self.windows), self.tokens, self.characters)


def held_out_texts(
    stories: list[str], tokenizer_file: Path, context: int
) -> dict[str, HeldOutText]:
    """The held-out ones of all `stories`: `plain`, and the `prompts` mixture (seed 0)."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    _, held_out = text.split_stories(stories)
    mixed = text.mixture(held_out, random.Random(0))
    return {
        "plain": HeldOutText.of(held_out, tokenizer, context),
        "prompts": HeldOutText.of(mixed, tokenizer, context),
    }
