"""How latents are called: by their number or, of several dictionaries, by dictionary and number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping

_NO_BREAK = "\u00a0"


def latent_name(latent: int, dictionaries: Mapping[str, int]) -> str:
    """`dictionaries`: where the latents of each begin, in order; empty for a single one."""
    if not dictionaries:
        return str(latent)
    starts = list(dictionaries.values())
    at = bisect_right(starts, latent) - 1
    return f"{list(dictionaries)[at]}:{latent - starts[at]}"


def pair_name(latents: Iterable[int], dictionaries: Mapping[str, int]) -> str:
    """The names of two latents, never broken between them."""
    return _NO_BREAK.join(latent_name(latent, dictionaries) for latent in latents)
