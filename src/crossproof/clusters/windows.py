"""Pieces of text at which a latent is active, and pieces at which it is checked not to be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from crossproof.clusters.reading import Reading
from crossproof.evaluation.contexts import Context, Peak, token_strings

BEFORE, AFTER = 12, 6
"""Tokens shown on either side of a place."""


@dataclass(frozen=True)
class Windows:
    """One reading as pieces of text."""

    reading: Reading
    tokenizer: PreTrainedTokenizerBase | None
    before: int = BEFORE
    after: int = AFTER

    def strongest(self, latent: int, count: int) -> list[Context]:
        """Around the latent's largest activations, at most one a sequence, strongest first."""
        places, values = self.reading.entries_of(latent)
        entries = zip(places.tolist(), values.tolist(), strict=True)
        peaks = sorted(Peak(-value, row, column) for (row, column), value in entries)
        firsts: dict[int, Peak] = {}
        for peak in peaks:
            firsts.setdefault(peak.sequence, peak)
            if len(firsts) == count:
                break
        return [self.around(latent, peak.sequence, peak.position) for peak in firsts.values()]

    def active(self, latent: int, count: int, seed: int) -> list[Context]:
        """Around active places drawn at random, at most one a sequence."""
        places, _ = self.reading.entries_of(latent)
        order = np.random.default_rng((seed, latent, 1)).permutation(len(places))
        firsts: dict[int, int] = {}
        for row, column in places[torch.from_numpy(order)].tolist():
            firsts.setdefault(row, column)
        return [self.around(latent, row, column) for row, column in list(firsts.items())[:count]]

    def inactive(self, latent: int, count: int, seed: int) -> list[Context]:
        """Around scored places drawn at random, at which and around which it is never active.

        Every token of the window is checked. Fewer than `count` where the text has no more.
        """
        reading = self.reading
        places, _ = reading.entries_of(latent)
        active = torch.zeros(reading.tokens.shape, dtype=torch.bool)
        active[places[:, 0], places[:, 1]] = True
        order = np.random.default_rng((seed, latent, 0)).permutation(len(reading.places))
        found: list[Context] = []
        used: set[int] = set()
        for row, column in reading.places[torch.from_numpy(order)].tolist():
            if len(found) == count:
                break
            if row in used or active[row, self._span(column)].any():
                continue
            used.add(row)
            found.append(self.around(latent, row, column))
        return found

    def around(self, latent: int, row: int, column: int) -> Context:
        """The window around one place, with the latent's activations in it."""
        places, values = self.reading.entries_of(latent)
        span = self._span(column)
        ids = self.reading.tokens[row, span].tolist()
        activations = [0.0] * len(ids)
        own = (places[:, 0] == row) & (places[:, 1] >= span.start) & (places[:, 1] < span.stop)
        for place, value in zip(places[own, 1].tolist(), values[own].tolist(), strict=True):
            activations[place - span.start] = value
        strings = token_strings(self.tokenizer, ids)
        return Context(strings, tuple(activations), column - span.start)

    def _span(self, column: int) -> slice:
        width = self.reading.tokens.shape[1]
        return slice(max(column - self.before, 0), min(column + self.after + 1, width))


def plain(context: Context) -> str:
    """The text of a context on one line."""
    return " ".join("".join(context.tokens).split())


def marked(context: Context) -> str:
    """The same with its peak between « and »."""
    before, after = context.tokens[: context.peak], context.tokens[context.peak + 1 :]
    peak = context.tokens[context.peak]
    word = peak.strip() or "↵"
    space = " " if peak[:1].isspace() else ""
    return " ".join("".join([*before, space, f"«{word}»", *after]).split())
