"""Which MLPs read a dictionary. Imports nothing that takes time: settings need no PyTorch."""

from __future__ import annotations

import re
from typing import Literal

from crossproof.errors import CrossproofError

MLPs = Literal["next", "all"] | tuple[int, ...]
"""next: those at whose input a dictionary decodes or, if there are none, the first behind each
hookpoint that it writes. all: every one that reads it. Else blocks."""

_BLOCK = re.compile(r"(?:blocks\.)?(\d+)(?:\.mlp)?")


def mlps_of(text: str) -> MLPs:
    """What an option says: next, all, or blocks with commas between, such as 3,4 or blocks.3.mlp.

    Raises CrossproofError for anything else.
    """
    if text == "next":
        return "next"
    if text == "all":
        return "all"
    found = [_BLOCK.fullmatch(part.strip()) for part in text.split(",")]
    blocks = {int(match[1]) for match in found if match}
    if not all(found):
        raise CrossproofError(
            f"'{text}' names no MLPs: give next, all, or blocks with commas between, such as 3,4."
        )
    return tuple(sorted(blocks))
