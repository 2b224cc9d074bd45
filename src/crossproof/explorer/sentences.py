"""Answers about sentences for several readers at once: one at work, the last ones remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from crossproof.crosscoder.encode import for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.explorer.sentence import Reader, ReadSentence, check_alone
from crossproof.interactions.config import MLPs
from crossproof.interactions.views import mlp_views
from crossproof.lm.model import LanguageModel

MOST_LETTERS = 2000
MOST_WAITING = 8
"""Requests that wait for the language model; more are sent away."""
REMEMBERED = 8


class Sentences:
    """The readers of all dictionaries of a store, in its order.

    Raises CrossproofError for two models as one.
    """

    def __init__(
        self, model: LanguageModel, crosscoders: list[Crosscoder], mlps: MLPs = "next"
    ) -> None:
        check_alone(model)
        self._readers = [reader_of(model, for_figures(each), mlps) for each in crosscoders]
        self._known: OrderedDict[tuple[int, str], ReadSentence] = OrderedDict()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)

    def answer(self, dictionary: int, what: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a page asks for: `sentence`, `token` or `without`.

        Raises CrossproofError for anything else, and where too many wait.
        """
        text = _text(given.get("text"))
        answers: dict[str, Callable[[ReadSentence], Mapping[str, Any]]] = {
            "sentence": lambda read: read.page(),
            "token": lambda read: read.token(_whole(given.get("at"))),
            "without": lambda read: read.without(_whole(given.get("at")), _list(given.get("off"))),
        }
        if what not in answers:
            raise CrossproofError(f"There is no '{what}' of a sentence: {', '.join(answers)}.")
        if not self._places.acquire(blocking=False):
            raise CrossproofError("Too many sentences wait to be read: try again.")
        try:
            with self._lock:
                return answers[what](self._read(dictionary, text))
        finally:
            self._places.release()

    def _read(self, dictionary: int, text: str) -> ReadSentence:
        key = (dictionary, text)
        if key not in self._known:
            self._known[key] = self._readers[dictionary].read(text)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


def reader_of(model: LanguageModel, crosscoder: Crosscoder, mlps: MLPs = "next") -> Reader:
    """A reader of sentences; one without MLPs where none reads the dictionary."""
    try:
        views = mlp_views(model, crosscoder, mlps, mixtures=True)
    except CrossproofError:  # the page of the dictionary says why
        views = {}
    return Reader(model, crosscoder, views)


def _text(text: object) -> str:
    if not isinstance(text, str) or not text.strip():
        raise CrossproofError("There is no sentence in this request.")
    if len(text) > MOST_LETTERS:
        raise CrossproofError(f"A sentence has at most {MOST_LETTERS:,} letters.")
    return text


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CrossproofError("The position of a token is a whole number.")
    return value


def _list(value: object) -> list[int]:
    if not isinstance(value, list) or len(value) > 1000:
        raise CrossproofError("Latents that are switched off are a list of numbers.")
    return [_whole(each) for each in value]
