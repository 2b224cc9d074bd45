"""Several dictionaries as one, in memory: the latents of all stand side by side (THEORY T6)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise, permutations, product

import torch
from torch import Tensor, nn

from crossproof.activations.config import PositionRule
from crossproof.crosscoder.assembling import GroupWeights, assembled
from crossproof.crosscoder.autograd import of_span
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.layout import LatentGroup, PlaceSpan
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
    where a part of the stream would be counted twice, or one of several normalises tokens.
    """
    check_counted_once(model, dictionaries)
    _check_token_scales(dictionaries)
    names = [name for each in dictionaries.values() for name in each.hookpoints.names]
    hookpoints = model.hookpoints(list(dict.fromkeys(names)))
    folded = [copy.deepcopy(each) for each in dictionaries.values()]
    groups: list[GroupWeights] = []
    skips: list[tuple[int, int]] = []
    for each in folded:
        each.fold()
        places = [hookpoints.index(name) for name in each.hookpoints.names]
        groups += _groups(each, places)
        skips += [(places[read], places[written]) for read, written in each.layout.skips]
    sizes = [each.n_latents for each in folded]
    config = CrosscoderConfig(sum(sizes), "relu")  # the members' rules take its place
    joined = assembled(config, hookpoints, groups, tuple(skips), folded[0].b_dec)
    _take_beside(joined, folded)
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    joined.members = dict(zip(dictionaries, starts, strict=True))
    joined.sparsity = SideBySide([each.sparsity for each in folded], sizes)
    joined.positions = _positions(hookpoints.names, folded)
    return joined.eval()


def compacted(dictionary: Crosscoder) -> Crosscoder:
    """The same dictionary, each latent with the places that it uses.

    Older imports have vectors of zeros where they only read or write; this tells their kind.
    """
    groups, skips = _groups(dictionary, range(len(dictionary.hookpoints))), dictionary.layout.skips
    if tuple(each.group for each in groups) == dictionary.layout.groups:
        return dictionary
    config = CrosscoderConfig(dictionary.n_latents, "relu")  # its own rule takes the place
    compact = assembled(config, dictionary.hookpoints, groups, skips, dictionary.b_dec)
    _take_beside(compact, [dictionary])
    compact.scale.copy_(dictionary.scale)
    compact.sparsity, compact.positions = dictionary.sparsity, dictionary.positions
    compact.members = dict(dictionary.members)
    return compact.eval()


def _groups(dictionary: Crosscoder, places: Sequence[int]) -> list[GroupWeights]:
    """The groups without the places at which all their vectors are zero."""
    groups, start = [], 0
    for group in _runs(dictionary):
        rows = slice(start, start + group.latents)
        start = rows.stop
        reads, writes = (tuple(places[at] for at in each) for each in (group.reads, group.writes))
        vectors = dictionary.W_enc[rows], dictionary.W_dec[rows]
        groups.append(GroupWeights.of(*vectors, reads, writes))
    return groups


def _runs(dictionary: Crosscoder) -> tuple[LatentGroup, ...]:
    """The groups, or runs of latents with the same places where that tells more.

    A joined set of an older import is one group of which most vectors are zero.
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


@torch.no_grad()
def _take_beside(made: Crosscoder, dictionaries: Sequence[Crosscoder]) -> None:
    """Biases and skips."""
    made.b_enc.copy_(torch.cat([each.b_enc for each in dictionaries]))
    for each in dictionaries:
        at = [made.hookpoints.index(name) for name in each.hookpoints.names]
        made.b_dec[at] += each.b_dec  # at most one of them writes there
    if made.layout.skips:
        made.W_skip.copy_(torch.cat([e.W_skip for e in dictionaries if e.layout.skips]))


def _check_token_scales(dictionaries: Mapping[str, Crosscoder]) -> None:
    """A token's own scale is that of one hookpoint, and is lost among several."""
    for name, each in dictionaries.items():
        if each.token_scale.kind is not None:
            raise CrossproofError(
                f"'{name}' normalises each token by its own scale ({each.token_scale.kind}), so it "
                f"cannot stand beside others: measure and evaluate it apart, without --together."
            )


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
