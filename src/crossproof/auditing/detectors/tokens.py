"""Detectors that look at one number a token: its interaction, or something simpler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.auditing.readings import Pooling, TextReading
from crossproof.auditing.scores import token_scores

NUMBERS: dict[str, Callable[[TextReading], Tensor]] = {
    "I": lambda reading: token_scores(reading.latents, reading.views, "I"),
    "J": lambda reading: token_scores(reading.latents, reading.views, "J"),
    "error": lambda reading: reading.errors,
    "norm": lambda reading: reading.norms,
    "loss": lambda reading: reading.losses,
}


@dataclass
class TokenNumber:
    """A number of each token, as it is: there is nothing to learn from trusted texts."""

    number: str
    pooling: Pooling = "max"

    def fit(self, trusted: Sequence[TextReading]) -> TokenNumber:
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        return reading.by_text(NUMBERS[self.number](reading).double(), self.pooling)


@dataclass
class TokenRarity:
    """-log frequency of tokens in the trusted texts: knows the text, and nothing of the model."""

    pooling: Pooling = "max"

    def fit(self, trusted: Sequence[TextReading]) -> TokenRarity:
        self.rarity_ = rarity(torch.cat([reading.token_ids for reading in trusted]))
        return self

    def score(self, reading: TextReading) -> Float[Tensor, " S"]:
        return reading.by_text(self.rarity_(reading.token_ids), self.pooling)


def rarity(trusted: Int[Tensor, " M"]) -> Callable[[Tensor], Tensor]:
    """From token ids to -log((count + 1) / (M + 1)), counted in M trusted tokens."""
    counts = torch.bincount(trusted)

    def of(ids: Tensor) -> Tensor:
        known = torch.where(ids < len(counts), counts[ids.clamp_max(len(counts) - 1)], 0)
        return -((known.double() + 1) / (len(trusted) + 1)).log()

    return of
