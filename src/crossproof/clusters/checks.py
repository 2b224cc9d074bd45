"""Checks that every judge must pass, in the manner of scikit-learn's estimator checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crossproof.clusters.judges import Judge, PreparingJudge, Question

QUESTIONS = (
    Question(
        (("on “dog”, “puppy”",), ("on “cat”; after “the”",)),
        (("on “said”",), ("on “rabbit”, “dog”",), ("near “river”",), ("on “,”",), ("on “two”",)),
    ),
    Question(
        (("The «cat» sat on the mat", "a big «cat» ran"), ("one «dog» barked",)),
        (("she «said» no",), ("the «dog» ran",), ("«↵»", "the end «.»"), ("",), ("two «and» two",)),
    ),
    Question((("no word stands out",),), tuple((word,) for word in ("a", "b", "c", "d", "e"))),
)
"""Explanations, contexts, and nothing to go by."""


def check_judge(factory: Callable[[], Judge], questions: Sequence[Question] = QUESTIONS) -> None:
    """Raises AssertionError, with a sentence, if judges of `factory` break the contract of `Judge`.

    Two judges are made; they are asked `questions` in several orders and company.
    """
    judge, other = factory(), factory()
    _hold(isinstance(judge, Judge), "a judge has a `name` and a method `choose`")
    _hold(isinstance(judge.name, str) and bool(judge.name), "`name` is a word")
    for each in (judge, other):
        if isinstance(each, PreparingJudge):
            each.prepare()
    _hold(list(judge.choose([])) == [], "no questions get no answers")
    answers = list(judge.choose(questions))
    _hold(len(answers) == len(questions), "every question gets an answer, None to abstain")
    for question, answer in zip(questions, answers, strict=True):
        valid = answer is None or (type(answer) is int and 0 <= answer < len(question.options))
        _hold(valid, f"an answer is the position of an option or None, not {answer!r}")
    _hold(list(judge.choose(questions)) == answers, "asked again, a judge answers the same")
    _hold(list(other.choose(questions)) == answers, "judges of one factory answer the same")
    backwards = list(judge.choose(questions[::-1]))[::-1]
    _hold(backwards == answers, "the order of questions changes no answer")
    alone = [answer for question in questions for answer in judge.choose([question])]
    _hold(alone == answers, "other questions change no answer")


def _hold(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(f"The judge breaks its contract: {rule}.")
