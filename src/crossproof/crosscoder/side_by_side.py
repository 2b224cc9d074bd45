"""Several dictionaries as one, in memory: the latents of all stand side by side (THEORY T6)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.activations.config import PositionRule
from crossproof.crosscoder.autograd import of_span
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.layout import LatentGroup, Layout, Places, PlaceSpan
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.sparsity import Sparsity
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.lm.stream import mlp_place, stream_place


class SideBySide(nn.Module):
    """The rules of several dictionaries, each for its own latents."""

    def __init__(self, rules: Sequence[Sparsity], sizes: Sequence[int]) -> None:
        super().__init__()
        self.rules = nn.ModuleList(rules)  # type: ignore[arg-type]  # every rule is a module
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.spans = [PlaceSpan(e - n, e, ()) for e, n in zip(ends, sizes, strict=True)]

    def select(self, pre: Tensor, training: bool = False) -> SparseLatents:
        """What each rule selects among its own latents."""
        chosen = [
            rule.select(pre[:, span.rows], training)  # type: ignore[operator]
            for rule, span in zip(self.rules, self.spans, strict=True)
        ]
        tokens = torch.cat([part.token_index for part in chosen])
        indices = [p.indices + s.start for p, s in zip(chosen, self.spans, strict=True)]
        order = tokens.argsort(stable=True)
        counts = torch.stack([part.offsets.diff() for part in chosen]).sum(0)
        offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        values = torch.cat([part.values for part in chosen])[order]
        return SparseLatents(offsets, torch.cat(indices)[order], values, pre.shape[1])

    def activate(self, entries: SparseLatents) -> SparseLatents:
        """Each rule's own activations."""
        values = torch.zeros_like(entries.values)
        for rule, span in zip(self.rules, self.spans, strict=True):
            own, at = of_span(entries, span)
            values[at] = rule.activate(own).values  # type: ignore[operator]
        return entries.with_values(values)


def side_by_side(model: LanguageModel, dictionaries: Mapping[str, Crosscoder]) -> Crosscoder:
    """One dictionary that computes what all of them compute, for measuring and evaluating.

    Its latents are theirs in order; `members` says where each one's begin. Raises CrossproofError
    where a part of the stream would be counted twice, or positions count by different rules.
    """
    check_counted_once(model, dictionaries)
    names = [name for each in dictionaries.values() for name in each.hookpoints.names]
    hookpoints = model.hookpoints(list(dict.fromkeys(names)))
    folded = [copy.deepcopy(each) for each in dictionaries.values()]
    parts: list[_Part] = []
    skips: list[tuple[int, int]] = []
    for each in folded:
        each.fold()
        places = [hookpoints.index(name) for name in each.hookpoints.names]
        parts += _parts(each, places)
        skips += [(places[read], places[written]) for read, written in each.layout.skips]
    layout = Layout(tuple(part.group for part in parts), tuple(skips))
    config = CrosscoderConfig(layout.n_latents, "relu")  # the members' rules take its place
    joined = Crosscoder(config, hookpoints, model.d_model, layout)
    joined.to(folded[0].b_dec)
    with torch.no_grad():
        _fill(joined, folded, parts)
    sizes = [each.n_latents for each in folded]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    joined.members = dict(zip(dictionaries, starts, strict=True))
    joined.sparsity = SideBySide([each.sparsity for each in folded], sizes)
    joined.positions = _positions(hookpoints.names, folded)
    return joined.eval()


def compacted(dictionary: Crosscoder) -> Crosscoder:
    """The same dictionary, each latent with the places that it uses.

    Imported transcoders have vectors of zeros where they only read or write; this tells their kind.
    """
    parts = _parts(dictionary, range(len(dictionary.hookpoints)))
    layout = Layout(tuple(part.group for part in parts), dictionary.layout.skips)
    if layout == dictionary.layout:
        return dictionary
    config = CrosscoderConfig(layout.n_latents, "relu")  # its own rule takes the place
    compact = Crosscoder(config, dictionary.hookpoints, dictionary.d_model, layout)
    compact.to(dictionary.b_dec)
    with torch.no_grad():
        _fill(compact, [dictionary], parts)
        compact.scale.copy_(dictionary.scale)
    compact.sparsity, compact.positions = dictionary.sparsity, dictionary.positions
    compact.members = dict(dictionary.members)
    return compact.eval()


@dataclass(frozen=True, eq=False)
class _Part:
    """A group of one dictionary's latents at its places among those of all."""

    group: LatentGroup
    W_enc: Float[Tensor, "S R D"]
    W_dec: Float[Tensor, "S W D"]


def _parts(dictionary: Crosscoder, places: Sequence[int]) -> list[_Part]:
    """The groups without the places at which all their vectors are zero."""
    parts, start = [], 0
    for group in _groups(dictionary):
        rows = slice(start, start + group.latents)
        start = rows.stop
        reads, W_enc = _used(dictionary.W_enc[rows], group.reads, places)
        writes, W_dec = _used(dictionary.W_dec[rows], group.writes, places)
        parts.append(_Part(LatentGroup(group.latents, reads, writes), W_enc, W_dec))
    return parts


def _groups(dictionary: Crosscoder) -> tuple[LatentGroup, ...]:
    """The groups, or runs of latents with the same places where that tells more.

    A joined set of transcoders is one group of which most vectors are zero.
    """
    groups = dictionary.layout.groups
    if len(groups) > 1 or len(dictionary.hookpoints) == 1:
        return groups
    used = torch.cat([dictionary.W_enc.any(dim=2), dictionary.W_dec.any(dim=2)], 1)
    changes = (used[1:] != used[:-1]).any(dim=1).nonzero()[:, 0] + 1
    if not 1 <= len(changes) < len(dictionary.hookpoints):
        return groups  # all alike, or single latents of zeros
    bounds = [0, *changes.tolist(), dictionary.n_latents]
    return tuple(
        LatentGroup(stop - start, groups[0].reads, groups[0].writes)
        for start, stop in pairwise(bounds)
    )


def _used(
    weights: Float[Tensor, "S R D"], own: Places, places: Sequence[int]
) -> tuple[Places, Float[Tensor, "S used D"]]:
    slots = [at for at in range(len(own)) if bool(weights[:, at].any())] or [0]
    slots.sort(key=lambda at: places[own[at]])
    if slots == list(range(len(own))):
        return tuple(places[at] for at in own), weights[:, : len(own)]  # not a copy of all
    return tuple(places[own[at]] for at in slots), weights[:, slots]


def _fill(joined: Crosscoder, dictionaries: Sequence[Crosscoder], parts: Sequence[_Part]) -> None:
    start = 0
    for part in parts:
        rows = slice(start, start + part.group.latents)
        start = rows.stop
        joined.W_enc[rows, : part.W_enc.shape[1]] = part.W_enc
        joined.W_dec[rows, : part.W_dec.shape[1]] = part.W_dec
    joined.b_enc.copy_(torch.cat([each.b_enc for each in dictionaries]))
    for each in dictionaries:
        at = [joined.hookpoints.index(name) for name in each.hookpoints.names]
        joined.b_dec[at] += each.b_dec  # at most one of them writes there
    if joined.layout.skips:
        joined.W_skip.copy_(torch.cat([e.W_skip for e in dictionaries if e.layout.skips]))


def _positions(names: Sequence[str], dictionaries: Sequence[Crosscoder]) -> PositionRule:
    """A position counts where it counts for all."""
    limits = dict.fromkeys(names, 0.0)  # zero: none
    for each in dictionaries:
        for name, limit in zip(each.hookpoints.names, each.positions.norm_limits, strict=False):
            limits[name] = min(filter(None, (limits[name], limit)), default=0.0)
    first = max(each.positions.skip_first for each in dictionaries)
    return PositionRule(first, tuple(limits.values()) if any(limits.values()) else ())


def check_counted_once(model: LanguageModel, dictionaries: Mapping[str, Crosscoder]) -> None:
    """Raises CrossproofError where two dictionaries describe the same part of the stream.

    A dictionary of the stream itself already contains everything that was written before it, one
    of an MLP's input all that its norm reads.
    """
    written = {
        name: [each.hookpoints.names[at] for at in each.written]
        for name, each in dictionaries.items()
    }
    for (one, mine), (other, theirs) in permutations(written.items(), 2):
        for first, second in product(mine, theirs):
            if first == second:
                raise CrossproofError(
                    f"'{one}' and '{other}' both describe {first}, so their latents would be "
                    f"counted twice: leave one out."
                )
            if _contains(model, first, second):
                raise CrossproofError(
                    f"'{one}' describes {first}, which already contains {second}, and '{other}' "
                    f"describes that: their latents would be counted twice; leave one out."
                )


def _contains(model: LanguageModel, first: str, second: str) -> bool:
    """Whether what `first` holds is a sum with `second` in it."""
    part, whole = stream_place(model, second), stream_place(model, first)
    match = re.fullmatch(r"blocks\.(\d+)\.mlp\.hook_in", first)
    if match is not None:
        whole = mlp_place(model, int(match[1]))
    if part is None or whole is None or not whole.whole:
        return False
    return part <= whole if part.whole else part < whole
