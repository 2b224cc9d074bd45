"""What latents are about: explanations from counts or by a language model, and contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.clusters.encoded_text import EncodedText, marked, plain
from crossproof.clusters.judges import DetectionSheet, Explanation, Item, Question
from crossproof.clusters.llm import LLM
from crossproof.clusters.prompts import LLMPrompt, explain_prompt, read_explanation
from crossproof.clusters.settings import Material
from crossproof.clusters.task import Trial
from crossproof.evaluation.contexts import Context, token_strings

Side = Literal["shown", "options"]
SIDES: tuple[Side, Side] = ("shown", "options")
"""Of the odd-one-in task: members that are shown, and candidates."""
PRIOR = 50.0
"""Strength of the prior, in tokens: what is seen once or twice does not stand out."""
CERTAIN = 3.0
"""Standard errors from zero that a word's log-odds need."""
LEAST_SHARE = 0.05
"""And the least share of the latent's activation."""
NEARBY = 12
"""Tokens before the position in which words of the passage are looked for."""


SPANS = {"on": (0,), "after": (1,), "near": tuple(range(1, NEARBY + 1))}
"""Tokens before an activation at which words are counted."""


@dataclass(frozen=True, eq=False)
class DataExplainer:
    """Explains latents by the words that are more frequent where they are active.

    Words are tokens without their spaces and capitals. Counts are weighted by activation and
    compared with all scored tokens by log-odds with an informative Dirichlet prior (Monroe,
    Colaresi and Quinn 2008, "Fightin' Words").
    """

    text: EncodedText

    def explain(self, latent: int) -> Explanation:
        """The words that distinguish the latent's activations, strongest evidence first."""
        positions, values = self.text.activations_of(latent)
        if len(values) == 0:
            return Explanation("never active in this text", "data")
        weights = (values / values.mean()).double()
        on = self._clues("on", positions, weights, 5)
        after = self._clues("after", positions, weights, 3)
        said = {*on, *after}
        near = self._clues("near", positions, weights, 4 + len(said))
        new = [word for word in near if len(word) >= 3 and word not in said][:4]
        clues = {"on": on, "after": after, "near": {word: near[word] for word in new}}
        parts = [
            f"{label} {', '.join(f'“{word}”' for word in words)}"
            for label, words in clues.items()
            if words
        ]
        return Explanation("; ".join(parts) or "no word stands out", "data", **clues)

    @cached_property
    def _words(self) -> tuple[list[str], Int[Tensor, "S T"]]:
        """All words, and the word of every token of the text."""
        ids, inverse = self.text.tokens.unique(return_inverse=True)
        strings = [word_of(token_strings(self.text.tokenizer, [i])[0]) for i in ids.tolist()]
        words = list(dict.fromkeys(strings))
        number = {word: i for i, word in enumerate(words)}
        of_id = torch.tensor([number[string] for string in strings])
        return words, of_id[inverse]

    @cached_property
    def _background(self) -> dict[str, Float[Tensor, " words"]]:
        """Counts of words in each span before every scored position."""
        positions = self.text.positions
        ones = torch.ones(len(positions), dtype=torch.float64)
        return {span: self._counts(span, positions, ones) for span in SPANS}

    def _counts(
        self, span: str, positions: Int[Tensor, "A 2"], weights: Float[Tensor, " A"]
    ) -> Float[Tensor, " words"]:
        """Weighted counts of the positions that have the word in the span before them."""
        words, text = self._words
        columns = positions[:, 1:] - torch.tensor(SPANS[span])
        before = text[positions[:, :1], columns.clamp_min(0)]
        before = torch.where(columns >= 0, before, len(words)).sort(1).values
        fresh = before < len(words)
        fresh[:, 1:] &= before[:, 1:] != before[:, :-1]
        spread = weights[:, None].expand_as(before)[fresh]
        # Of no position at all bincount gives integers.
        return torch.bincount(before[fresh], spread, minlength=len(words)).double()

    def _clues(
        self, span: str, positions: Int[Tensor, "A 2"], weights: Float[Tensor, " A"], most: int
    ) -> dict[str, float]:
        """The words that stand out, strongest evidence first, with their shares of activation."""
        counts, total = self._counts(span, positions, weights), float(weights.sum())
        scores = log_odds(counts, total, self._background[span], float(len(self.text.positions)))
        shares = counts / total
        good = ((scores >= CERTAIN) & (shares >= LEAST_SHARE)).nonzero()[:, 0]
        ranked = good[torch.argsort(scores[good], descending=True, stable=True)][:most]
        words = self._words[0]
        return {words[i]: round(float(shares[i]), 3) for i in ranked.tolist()}


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


@dataclass(eq=False)
class LatentTexts:
    """Explanations and contexts of latents, made when they are first needed.

    Each side of the task has its own explanation, from its own part of the text, and its own
    contexts from yet another.
    """

    parts: Mapping[str, EncodedText]
    """By part of `PARTS`."""
    contexts: int = 5
    llm: LLM | None = None
    """Writes the explanations; without one they are made from counts."""
    _explained: dict[tuple[Side, int], Explanation] = field(default_factory=dict)
    _contexts: dict[tuple[str, int], list[Context]] = field(default_factory=dict)

    @cached_property
    def _explainers(self) -> dict[Side, DataExplainer]:
        return {side: DataExplainer(self.parts[f"explain {side}"]) for side in SIDES}

    def strongest(self, part: str, latent: int) -> list[Context]:
        """The latent's strongest contexts in one part."""
        key = part, latent
        if key not in self._contexts:
            self._contexts[key] = self.parts[part].strongest(latent, self.contexts)
        return self._contexts[key]

    def prompt(self, side: Side, latent: int) -> LLMPrompt:
        """What the language model is asked about one latent."""
        return explain_prompt([marked(c) for c in self.strongest(f"explain {side}", latent)])

    def explain(
        self,
        wanted: Iterable[tuple[Side, int]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Makes explanations, those by a language model all in one go."""
        new = [key for key in dict.fromkeys(wanted) if key not in self._explained]
        if self.llm is not None:
            prompts = [self.prompt(side, latent) for side, latent in new]
            answers = self.llm.ask(prompts, read_explanation, "explaining")
            for (side, latent), answer in zip(new, answers, strict=True):
                text = answer or "no readable explanation"
                self._explained[side, latent] = Explanation(text, self.llm.endpoint.model)
            return
        for done, (side, latent) in enumerate(new, 1):
            self._explained[side, latent] = self._explainers[side].explain(latent)
            if progress is not None:
                progress(done, len(new))

    def explanation(self, side: Side, latent: int) -> Explanation:
        """One explanation, made now if it was not made before."""
        if (side, latent) not in self._explained:
            self.explain([(side, latent)])
        return self._explained[side, latent]

    def item(self, material: Material, side: Side, latent: int) -> Item:
        """What stands for a latent on one side of the task."""
        if material == "explanations":
            return (self.explanation(side, latent).text,)
        return tuple(marked(context) for context in self.strongest(f"judge {side}", latent))

    def questions(
        self, trials: Sequence[Trial], latents: Sequence[int], material: Material
    ) -> list[Question]:
        """Trials as texts; `latents` are the chosen ones, to which trials refer by position."""
        return [
            Question(
                tuple(self.item(material, "shown", latents[i]) for i in trial.shown),
                tuple(self.item(material, "options", latents[i]) for i in trial.options),
            )
            for trial in trials
        ]

    def sheet(self, latent: int, count: int, seed: int) -> DetectionSheet:
        """`count` active and `count` checked-inactive pieces of the part for scoring."""
        score, explained = self.parts["score"], self.parts["explain shown"]
        active, inactive = score.active(latent, count, seed), score.inactive(latent, count, seed)
        pieces = [(plain(c), True) for c in active] + [(plain(c), False) for c in inactive]
        order = np.random.default_rng((seed, latent, 2)).permutation(len(pieces)).tolist()
        known = explained.active(latent, count, seed), explained.inactive(latent, count, seed)
        return DetectionSheet(
            self.explanation("shown", latent),
            tuple(pieces[i][0] for i in order),
            tuple(pieces[i][1] for i in order),
            (tuple(map(plain, known[0])), tuple(map(plain, known[1]))),
        )


def sides(trials: Sequence[Trial], latents: Sequence[int]) -> list[tuple[Side, int]]:
    """Every side and latent of the trials, once."""
    once: dict[tuple[Side, int], None] = {}
    for trial in trials:
        once |= {("shown", latents[i]): None for i in trial.shown}
        once |= {("options", latents[i]): None for i in trial.options}
    return list(once)
