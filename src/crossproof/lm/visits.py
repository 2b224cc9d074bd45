"""What is done to a value that passes a site: shown, replaced, or both in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from crossproof.lm.sites import Site, Visit

Write = Callable[[int, Tensor], None]
"""Called with a hookpoint's place in the list asked for and its value, [S,T,D]."""


class AllReadError(Exception):
    """Ends a forward pass once every wanted hookpoint has been read."""


def hand_over(
    write: Write,
    dtype: torch.dtype,
    places: Mapping[Site, list[int]],
    waiting: set[Site],
    site: Site,
    value: Tensor,
) -> None:
    """Hands a site's value to `write` for each of its places; ends the pass after the last site."""
    for place in places[site]:
        write(place, value.to(dtype))
    waiting.discard(site)
    if not waiting:
        raise AllReadError


def store(out: Tensor, place: int, value: Tensor) -> None:
    """Keeps a value [S, T, D] in `out` [S, T, P, D]."""
    out[:, :, place] = value


def replacement(name: str, new: Tensor) -> Visit:
    """Puts `new` in a hookpoint's place."""
    return partial(_overwrite if name.endswith(".hook_resid_mid") else _substitute, new)


def live_visits(
    site: Callable[[str], Site],
    read: Mapping[str, Callable[[Tensor], None]],
    write: Mapping[str, Callable[[Tensor], Tensor]],
) -> dict[Site, Visit]:
    """Shows some hookpoints and replaces others as a pass runs; `site` finds them."""
    turns: dict[Site, list[Visit]] = {}
    for name, show in read.items():
        turns.setdefault(site(name), []).append(partial(_show, show))
    for name, change in write.items():
        turns.setdefault(site(name), []).append(partial(_rewrite, name, change))
    return {each: partial(_in_turn, visits) for each, visits in turns.items()}


def _in_turn(visits: Sequence[Visit], value: Tensor) -> Tensor | None:
    """Several visits, each of what the one before left."""
    new: Tensor | None = None
    for visit in visits:
        given = visit(value if new is None else new)
        new = new if given is None else given
    return new


def _show(show: Callable[[Tensor], None], value: Tensor) -> None:
    """A value to look at, which stays as it is."""
    show(value)


def _rewrite(name: str, change: Callable[[Tensor], Tensor], value: Tensor) -> Tensor | None:
    """Puts what `change` makes of a hookpoint's value in its place."""
    return replacement(name, change(value))(value)


def _substitute(new: Tensor, value: Tensor) -> Tensor:
    # A copy: some blocks write into what their MLP gives them.
    return new.to(value.dtype, copy=True)


def _overwrite(new: Tensor, value: Tensor) -> None:
    # The block adds this very tensor to the MLP's output, so writing into it reaches both.
    value.copy_(new)
