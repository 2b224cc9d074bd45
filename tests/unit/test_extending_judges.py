"""The example of docs/extending/judges.md runs, and the checks it uses can fail."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from crossproof.clusters.builtin_judges import EmbeddingJudge, OverlapJudge
from crossproof.clusters.judges import (
    JUDGES,
    JudgeOptions,
    Question,
    check_judge,
    make_judge,
    register_judge,
)
from crossproof.errors import CrossproofError

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "judges.md"


@pytest.fixture
def example() -> Iterator[dict[str, Any]]:
    """What the page's Python block defines; its judge is forgotten afterwards."""
    block, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, str(PAGE), "exec"), names)
    yield names
    JUDGES.remove("longest-word")


def test_the_example_is_registered_and_judges(example: dict[str, Any]) -> None:
    assert "longest-word" in JUDGES.names()
    judge = make_judge("longest-word", JudgeOptions())
    asked = Question((("on rabbits",),), (("on the",), ("near rabbits",), ("said",)))
    nothing = Question((("on rabbits",),), (("on the",), ("said",)))
    assert list(judge.choose([asked, nothing])) == [1, None]


def test_two_judges_cannot_have_one_name(example: dict[str, Any]) -> None:
    with pytest.raises(CrossproofError, match="longest-word"):
        register_judge("longest-word", lambda _: OverlapJudge())


def test_judges_that_come_with_crossproof_keep_the_contract() -> None:
    def letters(texts: Sequence[str]) -> Any:
        import numpy as np

        rows = np.array([[text.count(letter) + 0.1 for letter in "abcdeghin"] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    check_judge(OverlapJudge)
    check_judge(lambda: EmbeddingJudge(letters))
    check_judge(lambda: make_judge("overlap", JudgeOptions()))


class Counting:
    """Answers by how often it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, questions: Sequence[Question]) -> list[int | None]:
        self.asked += len(questions)
        return [self.asked % 5 for _ in questions]


class Constant:
    """The same answer to everything."""

    name = "constant"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def choose(self, questions: Sequence[Question]) -> list[Any]:
        return [self.answer for _ in questions]


class Places(Constant):
    """Answers by the place of a question among the others."""

    def choose(self, questions: Sequence[Question]) -> list[Any]:
        return [place % 5 for place, _ in enumerate(questions)]


class Short(Constant):
    """Leaves the last question out."""

    def choose(self, questions: Sequence[Question]) -> list[Any]:
        return super().choose(questions)[:-1]


@pytest.mark.parametrize(
    ("factory", "rule"),
    [
        (Counting, "asked again"),
        (lambda: Constant(5), "position of an option"),
        (lambda: Constant(1.0), "position of an option"),
        (lambda: Constant(True), "position of an option"),
        (lambda: Places(0), "order of questions"),
        (lambda: Short(0), "every question"),
        (object, "a name"),
    ],
)
def test_broken_judges_are_found(factory: Any, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule.replace("a name", "`name`")):
        check_judge(factory)
    check_judge(lambda: Constant(None))
