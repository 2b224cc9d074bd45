"""Contexts as the template shows them: pieces of text, each with a strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossproof.evaluation.contexts import Context
from crossproof.tables import number

VISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


@dataclass(frozen=True)
class Piece:
    """One token: its text, its share of the largest activation, and its activation."""

    space: str
    """Leading spaces, which are not shaded."""
    text: str
    strength: float
    activation: str
    peak: bool


def marked(contexts: Sequence[Context], largest: float | None = None) -> list[list[Piece]]:
    """The tokens of each context; strengths are relative to `largest`, or to the largest here."""
    if largest is None:
        largest = max((a for context in contexts for a in context.activations), default=0.0)
    return [_pieces(context, largest) for context in contexts]


def _pieces(context: Context, largest: float) -> list[Piece]:
    pieces = []
    for at, (text, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
        strength = round(activation / largest, 2) if largest > 0 else 0.0
        word = text.lstrip(" ")
        space = text[: len(text) - len(word)] if at else ""
        shown = word.translate(VISIBLE) or ("·" if activation else "")
        pieces.append(Piece(space, shown, strength, number(activation), at == context.peak))
    return pieces
