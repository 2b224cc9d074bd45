"""Which view of the MLPs the figures are of, in a sentence for tables and pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

_AT_INPUT = "MLP input "
_DENOMINATOR = ", at the denominator of "
_WITHOUT_NORM = ", which "
_EXPERTS = ", experts as "
_FROZEN = "Denominators of norms are those of the model’s own run."
_ROUTED = "Experts are those that the model’s own run routes a token to, at its weights."


def views_note(views: Mapping[str, Mapping[str, str] | str]) -> str:
    """Of crosscoders by name, what `interactions.views.described` says by block; "" for nothing.

    In place of that the reason why no MLP reads one. Said once of all that are read alike.
    """
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name, view in views.items():
        alike[view if isinstance(view, str) else _read_at(view)].append(name)
    if len(alike) == 1:
        sentences = [note for note in alike if note]
    else:
        sentences = [f"{', '.join(names)}: {note}" for note, names in alike.items() if note]
    if any(_DENOMINATOR in str(by_block) for by_block in views.values()):
        sentences.append(_FROZEN)
    if any(_EXPERTS in str(by_block) for by_block in views.values()):
        sentences.append(_ROUTED)
    return " ".join(sentences)


def _read_at(by_block: Mapping[str, str]) -> str:
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for block, told in by_block.items():
        blocks[_where(told)].append(block)
    sentence = "; ".join(_mlps(numbers, where) for where, numbers in blocks.items())
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _where(told: str) -> str:
    """The stream without the denominator, of many hookpoints the first and the last; "": input."""
    where = told.split(_EXPERTS)[0].split(_DENOMINATOR)[0].split(_WITHOUT_NORM)[0]
    if where.startswith(_AT_INPUT):
        return ""
    first, *more = where.split(", ")
    return f"the {first} to {more[-1]}" if len(more) > 1 else f"the {' and '.join((first, *more))}"


def _mlps(blocks: list[str], stream: str) -> str:
    if len(blocks) == 1:
        return f"the MLP of block {blocks[0]} reads the latents {_at(stream, 'its own input')}"
    numbers = ", ".join(blocks)
    return f"the MLPs of blocks {numbers} read the latents {_at(stream, 'their own inputs')}"


def _at(stream: str, otherwise: str) -> str:
    return f"in {stream}" if stream else f"at {otherwise}"
