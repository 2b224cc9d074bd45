"""Starting from trained dictionaries: their latents at their own places, the rest to be learnt.

Large crosscoders are trained so: single-place dictionaries first, each on its own place, then
their union, whose latents learn what they do at the other places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from crossproof.crosscoder.layout import LatentGroup
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.sparsity import JumpReLU
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.training.run_folder import RunFolder


def read_sources(model: LanguageModel, folders: Sequence[str]) -> dict[str, Crosscoder]:
    """The dictionaries of run folders, each with its scale folded in, by folder and name.

    Raises CrossproofError for a folder without any, or one of another model.
    """
    sources: dict[str, Crosscoder] = {}
    for folder in folders:
        for name, each in RunFolder.open(Path(folder)).crosscoders(model).items():
            each.fold()
            sources[f"{folder}, {name}"] = each.to(model.device)
    return sources


@torch.no_grad()
def start_from(crosscoders: Sequence[Crosscoder], sources: Mapping[str, Crosscoder]) -> None:
    """Gives every source's latents to a dictionary that has its places, in order.

    Vectors at places that a source does not have are zero. Raises CrossproofError for a source
    that fits no dictionary, and for more latents than there are.
    """
    free = [[0] * len(each.layout.groups) for each in crosscoders]
    for name, source in sources.items():
        at = next((i for i, each in enumerate(crosscoders) if _has_places(each, source)), None)
        if at is None:
            raise CrossproofError(
                f"'{name}' has hookpoints ({', '.join(source.hookpoints.names)}) that no "
                f"dictionary of this run has: start from others, or add them."
            )
        _take(crosscoders[at], source, name, free[at])


def _has_places(crosscoder: Crosscoder, source: Crosscoder) -> bool:
    return set(source.hookpoints.names) <= set(crosscoder.hookpoints.names)


def _take(crosscoder: Crosscoder, source: Crosscoder, name: str, free: list[int]) -> None:
    places = [crosscoder.hookpoints.index(each) for each in source.hookpoints.names]
    scale = crosscoder.scale
    start = 0
    for group in source.layout.groups:
        own = slice(start, start + group.latents)
        start = own.stop
        reads = [at for at, p in enumerate(group.reads) if bool(source.W_enc[own, at].any())]
        writes = [at for at, p in enumerate(group.writes) if bool(source.W_dec[own, at].any())]
        needed = (
            {places[group.reads[at]] for at in reads},
            {places[group.writes[at]] for at in writes},
        )
        target, rows = _rows(crosscoder, needed, group.latents, free, name)
        crosscoder.W_enc[rows] = 0
        crosscoder.W_dec[rows] = 0
        for at in reads:
            place = places[group.reads[at]]
            slot = target.reads.index(place)
            crosscoder.W_enc[rows, slot] = source.W_enc[own, at] / scale[place]
        for at in writes:
            place = places[group.writes[at]]
            slot = target.writes.index(place)
            crosscoder.W_dec[rows, slot] = source.W_dec[own, at] * scale[place]
        crosscoder.b_enc[rows] = source.b_enc[own]
        if isinstance(source.sparsity, JumpReLU) and isinstance(crosscoder.sparsity, JumpReLU):
            thresholds = source.sparsity.log_threshold[own]
            crosscoder.sparsity.log_threshold[rows] = thresholds
    for at in source.written:
        crosscoder.b_dec[places[at]] = source.b_dec[at] * scale[places[at]]
    for at, (read, written) in enumerate(source.layout.skips):
        pair = places[read], places[written]
        if pair not in crosscoder.layout.skips:
            raise CrossproofError(
                f"'{name}' has an affine skip and this run none there: add --skip."
            )
        factor = scale[pair[1]] / scale[pair[0]]
        crosscoder.W_skip[crosscoder.layout.skips.index(pair)] = source.W_skip[at] * factor


def _rows(
    crosscoder: Crosscoder,
    needed: tuple[set[int], set[int]],
    latents: int,
    free: list[int],
    name: str,
) -> tuple[LatentGroup, slice]:
    """The next rows of the first group that has these places and room; `free` counts on."""
    start = 0
    for number, group in enumerate(crosscoder.layout.groups):
        fits = needed[0] <= set(group.reads) and needed[1] <= set(group.writes)
        if fits and free[number] + latents <= group.latents:
            first = start + free[number]
            free[number] += latents
            return group, slice(first, first + latents)
        start += group.latents
    raise CrossproofError(
        f"There is no room for the {latents} latents of '{name}' among the {crosscoder.n_latents} "
        f"of this run that have its places: raise --n-latents, or start from fewer."
    )
