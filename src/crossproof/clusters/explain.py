"""What a latent is about, in one line, from counts alone: no language model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crossproof.clusters.reading import Reading
from crossproof.evaluation.contexts import token_strings

PRIOR = 50.0
"""Strength of the prior, in tokens: what is seen once or twice does not stand out."""
CERTAIN = 3.0
"""Standard errors from zero that a word's log-odds need."""
LEAST_SHARE = 0.05
"""And the least share of the latent's activation."""
NEARBY = 12
"""Tokens before the place in which words of the passage are looked for."""


@dataclass(frozen=True)
class Clue:
    """A word, and how much of the latent's activation falls on it (or behind it)."""

    word: str
    share: float
    score: float
    """Log-odds against the corpus, in standard errors."""


@dataclass(frozen=True)
class Explanation:
    """One line about a latent."""

    latent: int
    text: str
    by: str
    """`data`, or the name of the language model that wrote it."""
    on: tuple[Clue, ...] = ()
    """Words at the places where the latent is active."""
    after: tuple[Clue, ...] = ()
    """Words just before them."""
    near: tuple[Clue, ...] = ()
    """Words of three letters or more in the `NEARBY` tokens before them."""


@dataclass(frozen=True, eq=False)
class DataExplainer:
    """Explains latents by the words that are more frequent where they are active.

    Words are tokens without their spaces and capitals. Counts are weighted by activation and
    compared with all scored tokens by log-odds with an informative Dirichlet prior (Monroe,
    Colaresi and Quinn 2008, "Fightin' Words").
    """

    reading: Reading
    tokenizer: PreTrainedTokenizerBase | None

    def explain(self, latent: int) -> Explanation:
        """The words that distinguish the latent's activations, strongest evidence first."""
        places, values = self.reading.entries_of(latent)
        if len(values) == 0:
            return Explanation(latent, "never active in this text", "data")
        weights = (values / values.mean()).double()
        on = self._clues(*self._at(places, weights, 0), self._background[0], 5)
        after = self._clues(*self._at(places, weights, 1), self._background[1], 3)
        said = {clue.word for clue in (*on, *after)}
        near = self._clues(*self._around(places, weights), self._background[2], 4 + len(said))
        near = [clue for clue in near if len(clue.word) >= 3 and clue.word not in said][:4]
        parts = [
            f"{label} {', '.join(f'“{clue.word}”' for clue in clues)}"
            for label, clues in (("on", on), ("after", after), ("near", near))
            if clues
        ]
        text = "; ".join(parts) or "no word stands out"
        return Explanation(latent, text, "data", tuple(on), tuple(after), tuple(near))

    @cached_property
    def _words(self) -> tuple[list[str], Int[Tensor, "S T"]]:
        """All words, and the word of every token of the text."""
        ids, place = self.reading.tokens.unique(return_inverse=True)
        strings = [word_of(token_strings(self.tokenizer, [i])[0]) for i in ids.tolist()]
        words = list(dict.fromkeys(strings))
        number = {word: i for i, word in enumerate(words)}
        of_id = torch.tensor([number[string] for string in strings])
        return words, of_id[place]

    @cached_property
    def _background(self) -> tuple[tuple[Tensor, float], ...]:
        """Counts of words over all scored places: at them, before them and around them."""
        places = self.reading.places
        ones = torch.ones(len(places), dtype=torch.float64)
        return self._at(places, ones, 0), self._at(places, ones, 1), self._around(places, ones)

    def _at(
        self, places: Int[Tensor, "A 2"], weights: Float[Tensor, " A"], back: int
    ) -> tuple[Float[Tensor, " words"], float]:
        """Weighted counts of the word `back` tokens before each place, and their total."""
        words, text = self._words
        inside = places[:, 1] >= back
        found = text[places[inside, 0], places[inside, 1] - back]
        counts = torch.bincount(found, weights[inside], minlength=len(words))
        return counts.double(), float(weights.sum())  # of no place at all bincount gives integers

    def _around(
        self, places: Int[Tensor, "A 2"], weights: Float[Tensor, " A"]
    ) -> tuple[Float[Tensor, " words"], float]:
        """Weighted counts of places with the word in the tokens before; each place counts once."""
        words, text = self._words
        offsets = torch.arange(1, NEARBY + 1)
        columns = places[:, 1:] - offsets
        found = text[places[:, :1], columns.clamp_min(0)]
        found = torch.where(columns >= 0, found, len(words)).sort(1).values
        fresh = torch.ones_like(found, dtype=torch.bool)
        fresh[:, 1:] = found[:, 1:] != found[:, :-1]
        fresh &= found < len(words)
        spread = weights[:, None].expand_as(found)[fresh]
        counts = torch.bincount(found[fresh], spread, minlength=len(words))
        return counts.double(), float(weights.sum())

    def _clues(
        self, counts: Tensor, total: float, background: tuple[Tensor, float], most: int
    ) -> list[Clue]:
        scores = log_odds(counts, total, *background)
        shares = counts / total
        good = ((scores >= CERTAIN) & (shares >= LEAST_SHARE)).nonzero()[:, 0]
        ranked = good[torch.argsort(scores[good], descending=True, stable=True)][:most]
        words = self._words[0]
        return [Clue(words[i], float(shares[i]), float(scores[i])) for i in ranked.tolist()]


def log_odds(
    counts: Float[Tensor, " words"], total: float, corpus: Float[Tensor, " words"], size: float
) -> Float[Tensor, " words"]:
    """Log-odds of each word against the corpus, over its standard error (Monroe et al. 2008).

    The prior is `PRIOR` tokens with the corpus's frequencies. A count may be any weight up to its
    total.
    """
    prior = PRIOR * corpus / size + 1e-6
    odds = (counts + prior) / (total + PRIOR - counts - prior).clamp_min(1e-9)
    base = (corpus + prior) / (size + PRIOR - corpus - prior).clamp_min(1e-9)
    return (odds.log() - base.log()) / (1 / (counts + prior) + 1 / (corpus + prior)).sqrt()


def word_of(token: str) -> str:
    """A token as a word: without spaces and capitals; ↵ for a line's end, ␣ for a bare space."""
    word = token.strip().lower()
    if word:
        return word
    return "↵" if "\n" in token else "␣"


def explain_all(
    explainers: Sequence[DataExplainer], latents: Sequence[int]
) -> list[dict[int, Explanation]]:
    """Each latent explained by each explainer."""
    return [{h: explainer.explain(h) for h in latents} for explainer in explainers]


def active_shares(reading: Reading) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Share of scored tokens at which each latent is active, [H]."""
    shares: np.ndarray[tuple[int], np.dtype[np.float64]] = (
        reading.active.double() / max(len(reading.places), 1)
    ).numpy()
    return shares
