"""Which hookpoints each latent of a dictionary reads, and which it writes. Plain values.

One form for all kinds of dictionary: an SAE reads and writes one place, a transcoder reads one and
writes another, of a cross-layer transcoder or a weakly causal crosscoder every latent reads one
place and writes several behind it, and a crosscoder's latents read and write all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from crossproof.errors import CrossproofError

Places = tuple[int, ...]
"""Indices into a dictionary's list of hookpoints, ascending."""


@dataclass(frozen=True)
class LatentGroup:
    """Consecutive latents that read the same hookpoints and write the same."""

    latents: int
    """How many."""
    reads: Places
    writes: Places


@dataclass(frozen=True)
class PlaceSpan:
    """Consecutive latents `start` to `stop` (exclusive), and their places on one side."""

    start: int
    stop: int
    places: Places

    @property
    def rows(self) -> slice:
        """The latents."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Layout:
    """The groups of latents in order, and the affine skips beside them.

    Raises CrossproofError for a group without latents or places, or places that do not ascend.
    """

    groups: tuple[LatentGroup, ...]
    skips: tuple[tuple[int, int], ...] = ()
    """(read, written): what is written gets a linear map of what is read, beside the latents."""

    def __post_init__(self) -> None:
        for group in self.groups:
            ascending = all(list(p) == sorted(set(p)) and p for p in (group.reads, group.writes))
            if group.latents < 1 or not ascending:
                raise CrossproofError(
                    f"A group of {group.latents} latents reads hookpoints {list(group.reads)} and "
                    f"writes {list(group.writes)}: each group needs latents, and places in order."
                )
        if len(set(self.skips)) < len(self.skips):
            raise CrossproofError(f"A skip is listed twice among {list(self.skips)}.")

    @classmethod
    def joint(cls, latents: int, n_hookpoints: int) -> Layout:
        """A crosscoder: every latent reads and writes every hookpoint."""
        places = tuple(range(n_hookpoints))
        return cls((LatentGroup(latents, places, places),))

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Layout:
        """The layout of a config.json; TypeError or KeyError for what is none."""
        groups = [
            LatentGroup(_whole(group["latents"]), _places(group["reads"]), _places(group["writes"]))
            for group in values["groups"]
        ]
        pairs = [_places(pair) for pair in values.get("skips", [])]
        return cls(tuple(groups), tuple((read, written) for read, written in pairs))

    @property
    def n_latents(self) -> int:
        """H."""
        return sum(group.latents for group in self.groups)

    @cached_property
    def read(self) -> Places:
        """Every hookpoint that a latent or a skip reads."""
        return _union([*(group.reads for group in self.groups), [r for r, _ in self.skips]])

    @cached_property
    def written(self) -> Places:
        """Every hookpoint that a latent or a skip writes."""
        return _union([*(group.writes for group in self.groups), [w for _, w in self.skips]])

    @cached_property
    def reading(self) -> tuple[PlaceSpan, ...]:
        """What latents read; neighbouring groups with the same places are one."""
        return tuple(_spans((group.latents, group.reads) for group in self.groups))

    @cached_property
    def writing(self) -> tuple[PlaceSpan, ...]:
        """What latents write, likewise."""
        return tuple(_spans((group.latents, group.writes) for group in self.groups))

    def part(self, rows: slice) -> Layout:
        """The layout of some consecutive latents, with all skips."""
        groups, start = [], 0
        for group in self.groups:
            inside = min(start + group.latents, rows.stop) - max(start, rows.start)
            start += group.latents
            if inside > 0:
                groups.append(LatentGroup(inside, group.reads, group.writes))
        return Layout(tuple(groups), self.skips)

    def check(self, n_latents: int, n_hookpoints: int) -> None:
        """Raises CrossproofError unless it is one of so many latents and hookpoints."""
        last = max((*self.read, *self.written))
        if self.n_latents != n_latents or last >= n_hookpoints or min(self.read, default=0) < 0:
            raise CrossproofError(
                f"A layout of {self.n_latents} latents and hookpoints up to {last} does not fit a "
                f"dictionary of {n_latents} latents and {n_hookpoints} hookpoints."
            )


def describe_kind(layout: Layout) -> str:
    """What the field calls a dictionary of this layout."""
    pairs = [(group.reads, group.writes) for group in layout.groups]
    skip = "skip " if layout.skips else ""
    if len(pairs) > 1 and all(len(reads) == 1 for reads, _ in pairs):
        same = all(reads[0] in writes for reads, writes in pairs)
        if all(len(writes) == 1 for _, writes in pairs):
            return "SAEs side by side" if same else f"{skip}transcoders side by side"
        return "weakly causal crosscoder" if same else f"{skip}cross-layer transcoder"
    reads, writes = pairs[0]
    if len(pairs) == 1 and reads == writes:
        return "SAE" if len(reads) == 1 else "crosscoder"
    return f"{skip}transcoder"


def widest(spans: Sequence[PlaceSpan]) -> int:
    """The most places that a latent has."""
    return max(len(span.places) for span in spans)


def _spans(parts: Iterator[tuple[int, Places]]) -> Iterator[PlaceSpan]:
    start = 0
    for places, groups in groupby(parts, key=lambda part: part[1]):
        stop = start + sum(latents for latents, _ in groups)
        yield PlaceSpan(start, stop, places)
        start = stop


def _union(places: Sequence[Sequence[int]]) -> Places:
    return tuple(sorted({place for some in places for place in some}))


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"the layout has {value!r} where a number is expected")
    return value


def _places(values: Any) -> Places:
    return tuple(_whole(value) for value in values)
