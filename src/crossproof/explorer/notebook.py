"""The explorer's cards in a notebook: the same pages, one at a time."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossproof.crosscoder.encode import for_figures
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import LatentExample
from crossproof.evaluation.measurement import PairFigures
from crossproof.explorer.sentence import ReadSentence
from crossproof.explorer.sentences import reader_of
from crossproof.explorer.server import static_file
from crossproof.explorer.store import Store
from crossproof.lm.model import LanguageModel
from crossproof.training.run_folder import RunFolder

HEIGHT = 620
"""Pixels."""


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """One page of an explorer: a notebook shows it, a terminal says what it is."""

    store: Store
    dictionary: int
    kind: str
    number: int

    @property
    def page(self) -> dict[str, Any]:
        """The document behind the card."""
        return self.store.page(self.dictionary, self.kind, self.number)

    def __repr__(self) -> str:
        facts = self.store.dictionaries[self.dictionary]
        numbers = divmod(self.number, facts.latents) if self.kind == "pair" else (self.number,)
        return f"{self.kind} {' and '.join(map(str, numbers))} of '{facts.name}'"

    def _repr_html_(self) -> str:
        """The card in a frame of its own that can reach neither the notebook nor the network."""
        content = _content(self.store, self.dictionary, self.kind, self.number)
        return _framed(content | {"page": self.page})


def _content(store: Store, dictionary: int, kind: str, number: int) -> dict[str, Any]:
    """What a card's page is told, beside its document."""
    manifest = store.manifest.shown() | {"live": False}
    return {"manifest": manifest, "dictionary": dictionary, "kind": kind, "number": number}


def _framed(content: dict[str, Any]) -> str:
    """A page with its document, in a frame without rights but to run its own script."""
    data = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    style, script = (static_file(f"app.{kind}") for kind in ("css", "js"))
    document = (
        "<!doctype html><html lang='en-GB'><head><meta charset='utf-8'>"
        "<meta http-equiv='content-security-policy' content=\"default-src 'none'; "
        "script-src data:; style-src 'unsafe-inline'; img-src data:\">"
        f"<style>{style.decode()}</style></head><body><div id='app'></div>"
        f"<script type='application/json' id='embedded'>{data}</script>"
        f"<script src='data:text/javascript;charset=utf-8;base64,"
        f"{base64.b64encode(script).decode()}'></script></body></html>"
    )
    return (
        f'<iframe sandbox="allow-scripts" style="width:100%;height:{HEIGHT}px;border:0" '
        f'title="crossproof card" srcdoc="{html.escape(document)}"></iframe>'
    )


@dataclass(frozen=True, eq=False, repr=False)
class TokenCard:
    """One token of a sentence: its latents, its neurons and what comes next."""

    explorer: Explorer
    text: str
    sentence: ReadSentence
    page: dict[str, Any]
    at: int

    def __repr__(self) -> str:
        return f"token {self.at}, {self.page['tokens'][self.at]['text']!r}"

    def _repr_html_(self) -> str:
        """The card in a frame of its own."""
        answers = {"sentence": self.page}
        if self.page["tokens"][self.at]["scored"]:
            answers["token"] = self.sentence.token(self.at)
            answers["without"] = self.sentence.without(self.at, [])
        explorer = self.explorer
        content = _content(explorer.store, explorer.dictionary, "sentence", self.at)
        content["manifest"]["live"] = True
        return _framed(content | {"options": {"text": self.text, "at": str(self.at)}} | answers)


class Explorer:
    """The store of a run, in Python.

    `explorer.latent(3)`, `explorer.pair(3, 17)` and `explorer.neuron(block=1, neuron=40)` are
    cards. Raises CrossproofError as `Store`, or for a dictionary that the store does not hold.
    """

    def __init__(self, run: str | Path, dictionary: str | int = 0) -> None:
        self.store = Store(Path(run))
        self.dictionary = self.store.number(dictionary)

    def __repr__(self) -> str:
        return self.store.manifest.tables()[0].to_text()

    def latent(self, latent: int) -> Card:
        """A latent's card."""
        return self._card("latent", latent)

    def pair(self, one: int, other: int) -> Card:
        """The card of two latents."""
        facts = self.store.dictionaries[self.dictionary]
        return self._card("pair", min(one, other) * facts.latents + max(one, other))

    def neuron(self, block: int, neuron: int) -> Card:
        """A neuron's card."""
        neurons = self.store.dictionaries[self.dictionary].neurons
        before = sum(count for name, count in neurons.items() if int(name) < block)
        if not 0 <= neuron < neurons.get(str(block), 0):
            raise CrossproofError(f"There is no neuron {neuron} of block {block} in this store.")
        return self._card("neuron", before + neuron)

    def read(self, model: LanguageModel, text: str) -> tuple[TokenCard, ...]:
        """A sentence: the card of each of its tokens.

        Raises CrossproofError for another model than the store's, and for no text or too much.
        """
        if model.weights_hash != self.store.manifest.model_hash:
            raise CrossproofError(
                f"The store is about '{self.store.manifest.model}' and not '{model.name}': load "
                f"that model."
            )
        crosscoders = RunFolder.open(self.store.run).crosscoders(model)
        name = self.store.dictionaries[self.dictionary].name
        reader = reader_of(model, for_figures(crosscoders[name]))
        sentence = reader.read(text)
        page = sentence.page()
        count = len(page["tokens"])
        return tuple(TokenCard(self, text, sentence, page, at) for at in range(count))

    def _card(self, kind: str, number: int) -> Card:
        self.store.packed_page(self.dictionary, kind, number)  # raises if there is none
        return Card(self.store, self.dictionary, kind, number)


Shown = LatentExample | PairFigures | Card | TokenCard | int | tuple[int, int]


def show(
    what: Shown, run: str | Path | Explorer | None = None, dictionary: str | int = 0
) -> Card | TokenCard:
    """The explorer's card of a latent, a pair or a token, for a notebook to show.

    A latent is its number or one of `top_contexts`, a pair two numbers or one of a measurement's
    `top_pairs`, a token one of `Explorer.read`. `run` is the run folder or its `Explorer`. Raises
    CrossproofError where it is needed and missing, or there is no such page.
    """
    if isinstance(what, Card | TokenCard):
        return what
    if run is None:
        raise CrossproofError("Say which run this is of: show(..., run='runs/demo').")
    explorer = run if isinstance(run, Explorer) else Explorer(run, dictionary)
    if isinstance(what, LatentExample):
        return explorer.latent(what.latent)
    if isinstance(what, PairFigures):
        return explorer.pair(*what.latents)
    return explorer.pair(*what) if isinstance(what, tuple) else explorer.latent(what)
