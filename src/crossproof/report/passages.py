"""Contexts of latents as the template shows them: pieces of text, each with a strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossproof.evaluation.contexts import Context, LatentExample
from crossproof.tables import number

VISIBLE = str.maketrans({"\n": "↵", "\r": "␍", "\t": "⇥"})


@dataclass(frozen=True)
class Piece:
    """One token: its text, its share of the latent's largest activation, and that activation."""

    space: str
    """Leading spaces, which are not shaded."""
    text: str
    strength: float
    activation: str
    peak: bool


@dataclass(frozen=True)
class Passage:
    """A latent with its contexts."""

    latent: int
    frequency: str
    mean_activation: str
    contexts: tuple[tuple[Piece, ...], ...]


def passages(examples: Sequence[LatentExample]) -> list[Passage]:
    """Latents with their contexts; strengths are relative to the latent's largest activation."""
    return [_passage(example) for example in examples]


def _passage(example: LatentExample) -> Passage:
    largest = max((a for c in example.contexts for a in c.activations), default=0.0)
    return Passage(
        example.latent,
        f"{example.frequency:.2%}",
        number(example.mean_activation),
        tuple(tuple(pieces(context, largest)) for context in example.contexts),
    )


def pieces(context: Context, largest: float) -> list[Piece]:
    """The tokens of a context; strengths are relative to `largest`."""
    pieces = []
    for place, (text, activation) in enumerate(
        zip(context.tokens, context.activations, strict=True)
    ):
        strength = round(activation / largest, 2) if largest > 0 else 0.0
        word = text.lstrip(" ")
        space = text[: len(text) - len(word)] if place else ""
        shown = word.translate(VISIBLE) or ("·" if activation else "")
        pieces.append(Piece(space, shown, strength, number(activation), place == context.peak))
    return pieces
