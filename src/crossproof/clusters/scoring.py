"""How well explanations predict where latents are active, on text they were not made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from crossproof.clusters.explain import Explanation
from crossproof.clusters.judges import Embed, unmarked, words
from crossproof.clusters.llm import LLM
from crossproof.clusters.prompts import Prompt, detect_prompt, read_decisions
from crossproof.clusters.windows import Windows, plain
from crossproof.evaluation.intervals import Sums, estimate

OUTCOMES = ("tp", "fn", "fp", "tn")


@dataclass(frozen=True)
class Sheet:
    """The pieces of text that one explanation is examined on, shuffled."""

    explanation: Explanation
    windows: tuple[str, ...]
    active: tuple[bool, ...]
    calibration: tuple[tuple[str, ...], tuple[str, ...]]
    """Active and inactive pieces of the text that the explanation was made from."""


@runtime_checkable
class Scorer(Protocol):
    """Decides from an explanation alone in which pieces its latent is active."""

    @property
    def name(self) -> str:
        """What it is called in results."""

    def decide(self, sheets: Sequence[Sheet]) -> list[list[bool] | None]:
        """A decision for each window of each sheet; None where there is no answer."""


@dataclass(frozen=True)
class OverlapScorer:
    """Active if the piece contains one of the words that the latent is said to be active on.

    Of explanations without such words, any of their words of four letters or more.
    """

    name: str = "overlap"

    def decide(self, sheets: Sequence[Sheet]) -> list[list[bool] | None]:
        """Compares words, capitals aside."""
        return [[bool(words((w,)) & self._clues(s)) for w in s.windows] for s in sheets]

    def _clues(self, sheet: Sheet) -> set[str]:
        if sheet.explanation.by == "data":
            return words(tuple(clue.word for clue in sheet.explanation.on))
        return {word for word in words((sheet.explanation.text,)) if len(word) >= 4}


@dataclass(frozen=True, eq=False)
class EmbeddingScorer:
    """Active if the piece is nearer to the explanation than a threshold.

    The threshold is halfway between the mean similarities of active and inactive pieces of the
    text that the explanation was made from.
    """

    embed: Embed
    name: str = "embedding"

    def decide(self, sheets: Sequence[Sheet]) -> list[list[bool] | None]:
        """Similarity is the cosine. All texts are embedded in one go, in full batches."""
        texts = list(dict.fromkeys(text for sheet in sheets for text in _texts(sheet)))
        vectors = dict(zip(texts, self.embed(texts), strict=True)) if texts else {}

        def near(sheet: Sheet, pieces: Sequence[str]) -> NDArray[np.float64]:
            own = vectors[unmarked(sheet.explanation.text)]
            cosines: NDArray[np.float64] = np.stack([vectors[piece] for piece in pieces]) @ own
            return cosines

        decided: list[list[bool] | None] = []
        for sheet in sheets:
            if not (all(sheet.calibration) and sheet.windows):
                decided.append(None)
                continue
            level = sum(float(near(sheet, pieces).mean()) for pieces in sheet.calibration) / 2
            decided.append((near(sheet, sheet.windows) > level).tolist())
        return decided


@dataclass(frozen=True, eq=False)
class LLMScorer:
    """A language model behind an OpenAI-compatible endpoint."""

    llm: LLM
    progress: Callable[[int, int], None] | None = None
    name: str = "llm"

    def prompts(self, sheets: Sequence[Sheet]) -> list[Prompt]:
        """One prompt a sheet."""
        return [detect_prompt(sheet.explanation.text, sheet.windows) for sheet in sheets]

    def decide(self, sheets: Sequence[Sheet]) -> list[list[bool] | None]:
        """All pieces of a sheet at once; None where no readable answer came."""
        answers: list[list[bool] | None] = [None] * len(sheets)
        by_length: dict[int, list[int]] = {}
        for i, sheet in enumerate(sheets):
            by_length.setdefault(len(sheet.windows), []).append(i)
        for count, own in by_length.items():
            prompts = self.prompts([sheets[i] for i in own])

            def read(answer: str, count: int = count) -> list[bool] | None:
                return read_decisions(answer, count)

            found = self.llm.ask(prompts, read, self.progress)
            for i, decided in zip(own, found, strict=True):
                answers[i] = decided
        return answers


def _texts(sheet: Sheet) -> list[str]:
    return [
        unmarked(sheet.explanation.text),
        *sheet.windows,
        *sheet.calibration[0],
        *sheet.calibration[1],
    ]


def sheet_of(
    explanation: Explanation, score: Windows, explained: Windows, count: int, seed: int
) -> Sheet:
    """`count` active and `count` checked-inactive pieces from the reading for scoring."""
    latent = explanation.latent
    positive, negative = score.active(latent, count, seed), score.inactive(latent, count, seed)
    pieces = [(plain(c), True) for c in positive] + [(plain(c), False) for c in negative]
    order = np.random.default_rng((seed, latent, 2)).permutation(len(pieces)).tolist()
    calibration = explained.active(latent, count, seed), explained.inactive(latent, count, seed)
    return Sheet(
        explanation,
        tuple(pieces[i][0] for i in order),
        tuple(pieces[i][1] for i in order),
        (tuple(map(plain, calibration[0])), tuple(map(plain, calibration[1]))),
    )


def detection(
    sheets: Sequence[Sheet], decisions: Sequence[Sequence[bool] | None], resamples: int = 1000
) -> dict[str, Any]:
    """Sensitivity, specificity and balanced accuracy with 95% intervals over latents.

    Counts of the confusion matrix are over all pieces; latents without an answer are left out and
    counted as `unanswered`.
    """
    rows = [
        _outcomes(sheet.active, decided)
        for sheet, decided in zip(sheets, decisions, strict=True)
        if decided is not None
    ]
    unanswered = sum(decided is None for decided in decisions)
    if not rows:
        return {"latents": 0, "unanswered": unanswered}
    table = np.array(rows, dtype=np.float64)
    sums = {name: table[:, i] for i, name in enumerate(OUTCOMES)}

    def sensitivity(totals: Sums) -> NDArray[np.float64]:
        return _share(totals["tp"], totals["fn"])

    def specificity(totals: Sums) -> NDArray[np.float64]:
        return _share(totals["tn"], totals["fp"])

    def balanced(totals: Sums) -> NDArray[np.float64]:
        value: NDArray[np.float64] = (sensitivity(totals) + specificity(totals)) / 2
        return value

    figures: Mapping[str, Callable[[Sums], NDArray[np.float64]]] = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced": balanced,
    }
    found = {name: estimate(sums, function, resamples) for name, function in figures.items()}
    return {
        "latents": len(rows),
        "unanswered": unanswered,
        "confusion": {name: int(column.sum()) for name, column in sums.items()},
        **{name: {"mean": f.mean, "ci": list(f.ci)} for name, f in found.items()},
    }


def _outcomes(active: Sequence[bool], decided: Sequence[bool]) -> tuple[int, int, int, int]:
    pairs = list(zip(active, decided, strict=True))
    return (
        pairs.count((True, True)),
        pairs.count((True, False)),
        pairs.count((False, True)),
        pairs.count((False, False)),
    )


def _share(part: NDArray[np.float64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    value: NDArray[np.float64] = part / np.maximum(part + rest, 1)
    return value[:, None]
