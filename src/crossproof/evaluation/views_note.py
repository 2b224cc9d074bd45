"""Which view of the MLPs the figures are of, in a sentence for tables and pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

_AT_INPUT = "MLP input "
_DENOMINATOR = ", at the denominator of "


def views_note(views: Mapping[str, Mapping[str, str]]) -> str:
    """Of crosscoders by name, what `interactions.views.described` says by block; "" for nothing.

    Said once where all are read alike.
    """
    told = {name: _read_at(by_block) for name, by_block in views.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return " ".join(f"{name}: {note}" for name, note in told.items() if note)


def _read_at(by_block: Mapping[str, str]) -> str:
    blocks: defaultdict[str, list[str]] = defaultdict(list)
    for block, told in by_block.items():
        where = told.split(_DENOMINATOR)[0]
        blocks["its own input" if where.startswith(_AT_INPUT) else f"the {where}"].append(block)
    parts = [f"{_mlps(numbers)} the latents in {where}" for where, numbers in blocks.items()]
    if any(_DENOMINATOR in told for told in by_block.values()):
        parts.append("a norm’s denominator is that of the model’s own run")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}." if parts else ""


def _mlps(blocks: list[str]) -> str:
    one, all_of_them = len(blocks) == 1, ", ".join(blocks)
    return (
        f"the MLP of block {all_of_them} reads" if one else f"the MLPs of blocks {all_of_them} read"
    )
