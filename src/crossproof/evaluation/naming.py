"""How latents are called: by their number or, of several dictionaries, by dictionary and number."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import product, takewhile
from string import ascii_uppercase

_NO_BREAK = "\u00a0"
_SHORT = 4
"""Characters of a dictionary's name beside which a table of 80 columns still holds its figures."""


def latent_name(latent: int, dictionaries: Mapping[str, int]) -> str:
    """`dictionaries`: where the latents of each begin, in order; empty for a single one."""
    if not dictionaries:
        return str(latent)
    at = _dictionary_of(latent, dictionaries)
    return f"{list(dictionaries)[at]}:{latent - list(dictionaries.values())[at]}"


def _dictionary_of(latent: int, dictionaries: Mapping[str, int]) -> int:
    return bisect_right(list(dictionaries.values()), latent) - 1


def pair_name(latents: Iterable[int], dictionaries: Mapping[str, int]) -> str:
    """The names of two latents, never broken between them."""
    return _NO_BREAK.join(latent_name(latent, dictionaries) for latent in latents)


def abbreviated(
    dictionaries: Mapping[str, int], latents: Iterable[int]
) -> tuple[dict[str, int], str]:
    """The dictionaries with names short enough for a narrow table, and what to say of those that
    `latents` belong to.

    Names that share their ends keep what differs (of blocks.0.mlp and blocks.1.mlp 0 and 1), others
    become letters. Short names stay, and then nothing needs to be said.
    """
    names = list(dictionaries)
    if max(map(len, names), default=0) <= _SHORT:
        return dict(dictionaries), ""
    used = sorted({_dictionary_of(latent, dictionaries) for latent in latents})
    cores = _cores(names)
    if cores is not None:
        said = "".join(f"{cores[at]}:N is latent N of {names[at]}, and so on." for at in used[:1])
    else:
        cores = _letters(len(names))
        said = "; ".join(f"{cores[at]}:N is latent N of {names[at]}" for at in used)
        said = f"{said}." if said else ""
    return dict(zip(cores, dictionaries.values(), strict=True)), said


def _cores(names: Sequence[str]) -> list[str] | None:
    """What differs between the names, in whole words; None where that is not short."""
    words = [re.split(r"([^A-Za-z0-9])", name) for name in names]
    begin = _shared(words)
    end = _shared([each[begin:][::-1] for each in words])
    cores = ["".join(each[begin : len(each) - end]) for each in words]
    short = all(core and len(core) <= _SHORT for core in cores) and len(set(cores)) == len(cores)
    return cores if short else None


def _shared(words: Iterable[Sequence[str]]) -> int:
    """How many first words are alike."""
    alike = (len(set(column)) == 1 for column in zip(*words, strict=False))
    return sum(1 for _ in takewhile(bool, alike))


def _letters(count: int) -> list[str]:
    """A, B, ..., of more than 26 AA, AB, ..."""
    length = 1
    while len(ascii_uppercase) ** length < count:
        length += 1
    made = ("".join(letters) for letters in product(ascii_uppercase, repeat=length))
    return [name for name, _ in zip(made, range(count), strict=False)]
