"""The contract of a judge: which candidate belongs to the members shown? And the registry.

Imports nothing heavy: the command line lists judges by name before PyTorch is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

from crossproof.clusters.llm import LLM, Endpoint
from crossproof.errors import CrossproofError
from crossproof.registry import Registry

Item = tuple[str, ...]
"""What is shown of one latent: its explanation, or its contexts."""


@dataclass(frozen=True)
class Question:
    """One trial as texts: exactly one of the options belongs with the shown members."""

    shown: tuple[Item, ...]
    options: tuple[Item, ...]


@dataclass(frozen=True)
class Explanation:
    """One line about a latent; if made from counts, its words with their shares of activation."""

    text: str
    by: str
    """`data`, or the name of the language model that wrote it."""
    on: dict[str, float] = field(default_factory=dict)
    """Words at the positions where the latent is active."""
    after: dict[str, float] = field(default_factory=dict)
    """Words just before them."""
    near: dict[str, float] = field(default_factory=dict)
    """Words of three letters or more in the dozen tokens before them."""


@dataclass(frozen=True)
class DetectionSheet:
    """The pieces of text that one explanation is examined on, shuffled."""

    explanation: Explanation
    windows: tuple[str, ...]
    active: tuple[bool, ...]
    calibration: tuple[tuple[str, ...], tuple[str, ...]]
    """Active and inactive pieces of the text that the explanation was made from."""


@runtime_checkable
class Judge(Protocol):
    """Chooses one option of every question, from the texts alone.

    * Input: questions whose members and options are texts (an explanation each, or several
      contexts with the peak between « and »). Nothing else is known of a latent.
    * Output: an answer a question, in order: the position of the chosen option, or None to
      abstain. An abstention counts as wrong and is reported as `unanswered`.
    * Determinism: equal questions in an equal order get equal answers.
    * Independence: the answer to one question does not depend on the others.
    * Cost: `choose` is called once a crosscoder with every question, so that a judge may work in
      batches. Texts recur: what is expensive should be done once a text.
    * No network unless the user asked for one by naming this judge and its endpoint.

    Two methods more are used where a judge has them: `prepare()` (`PreparingJudge`) and
    `decide(sheets)` (`DetectingJudge`). `check_judge` checks all this.
    """

    @property
    def name(self) -> str:
        """What the judge is called in results."""

    def choose(self, questions: Sequence[Question]) -> Sequence[int | None]:
        """The position of the chosen option of each question, or None."""


@runtime_checkable
class PreparingJudge(Protocol):
    """A judge that loads something."""

    def prepare(self) -> None:
        """Called once, before any text is read; CrossproofError if something is missing."""


@runtime_checkable
class DetectingJudge(Protocol):
    """A judge that also decides from an explanation in which pieces of text its latent is active.

    Without `decide`, explanations are scored by word overlap alone.
    """

    name: str

    def decide(self, sheets: Sequence[DetectionSheet]) -> list[list[bool] | None]:
        """A decision for each window of each sheet; None to abstain from a sheet."""


@dataclass(frozen=True)
class JudgeOptions:
    """What a judge's factory may want to know."""

    embedding_model: str = ""
    """A sentence-transformers model or folder; by default the packaged one."""
    endpoint: Endpoint = field(default_factory=Endpoint)
    answers: Path | None = None
    """Folder in which answers of language models are kept; None keeps none."""

    @cached_property
    def llm(self) -> LLM:
        """The client of the endpoint, one for explainer and judge; errors as `LLM`."""
        return LLM(self.endpoint, self.answers)


JudgeFactory = Callable[[JudgeOptions], Judge]
JUDGES: Registry[JudgeFactory] = Registry("judge", "crossproof.judges")
"""Judges by name; another package brings one through the group of entry points."""
for _name in ("embedding", "overlap", "llm"):
    JUDGES.register(_name, f"crossproof.clusters.builtin_judges:{_name}_judge")


def register_judge(name: str, factory: JudgeFactory) -> None:
    """Makes `--judge NAME` and `ClusterSettings(judge=NAME)` mean `factory(options)`.

    The factory is called before PyTorch is imported: it should look for what the judge needs
    (`importlib.util.find_spec`), raise CrossproofError if it is missing, and leave loading to
    `prepare`. Raises CrossproofError if another factory has the name.
    """
    JUDGES.register(name, factory)


def make_judge(name: str, options: JudgeOptions) -> Judge:
    """The judge `name`; CrossproofError if there is none, or what it needs is missing.

    Without a name: the embedding judge where its packages are installed, else word overlap.
    """
    if name:
        return JUDGES.get(name)(options)
    try:
        return make_judge("embedding", options)
    except CrossproofError:
        return make_judge("overlap", options)


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
