"""What pages of one dictionary are made of, and the pieces that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsFloat

import numpy as np
from jaxtyping import Int
from torch import Tensor

from crossproof.clusters.result import ClusteredRun
from crossproof.explorer.decoders import LogitEffects
from crossproof.explorer.detail_tally import DetailTally
from crossproof.explorer.pair_tally import Doubles
from crossproof.explorer.strings import TokenStrings
from crossproof.explorer.strongest import WINDOW, Floats, Ints, Strongest, first_of_groups, ranks
from crossproof.explorer.text_tally import TextTally
from crossproof.interactions.measuring import COLUMNS

Document = dict[str, Any]
OWNED, OWNERS = 12, 16
"""Neurons of a latent, and latents of a neuron, that are listed."""


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that is known of one dictionary; H latents."""

    sequences: Int[Tensor, "S T"]
    strings: TokenStrings
    text: TextTally
    details: DetailTally | None
    """None where no MLP reads the dictionary."""
    pair_neurons: Mapping[int, str]
    """JSON, by place in the pairs' contexts, row by row."""
    neuron_examples: Mapping[int, str]
    """JSON, by place in the neurons' contexts."""
    blocks: tuple[int, ...]
    norms: Floats
    whose: Floats
    """[H] relative norms of two models' latents, else NaN."""
    nearest: tuple[Ints, Floats]
    logits: LogitEffects
    map: Floats
    clusters: ClusteredRun | None

    @property
    def second(self) -> str:
        """J of plain MLPs, AND of gated ones."""
        return "AND" if "AND" in self.text.forms else "J"

    @property
    def n_latents(self) -> int:
        """H."""
        return len(self.text.active)

    @cached_property
    def cluster_of(self) -> dict[int, int]:
        """The number of each latent's cluster, from 1."""
        groups = [] if self.clusters is None else self.clusters.clusters
        return {latent: at for at, group in enumerate(groups, 1) for latent in group.latents}

    @cached_property
    def explanations(self) -> dict[int, str]:
        """What `cluster` has said of latents."""
        groups = [] if self.clusters is None else self.clusters.clusters
        return {m.latent: m.explanation.text for group in groups for m in group.members}

    @cached_property
    def partners(self) -> dict[int, Ints]:
        """Rows of each latent's partners that the table of pairs keeps."""
        h, k = np.divmod(self.text.pairs.key, self.n_latents)
        rows = np.tile(np.arange(len(h)), 2)
        latent = np.concatenate([h, k])
        size = np.tile(self.text.pairs.form(COLUMNS["I"]), 2)
        order = np.lexsort((-size, latent))
        starts = np.flatnonzero(np.diff(latent[order], prepend=-1))
        return {
            int(latent[order[start]]): part
            for start, part in zip(starts, np.split(rows[order], starts[1:]), strict=False)
        }

    @cached_property
    def described(self) -> Ints:
        """Of each pair of the table its row among those with a page; -1 without one."""
        if self.details is None or len(self.details.key) == 0:
            return np.full(len(self.text.pairs.key), -1)
        at = np.searchsorted(self.details.key, self.text.pairs.key).clip(
            0, len(self.details.key) - 1
        )
        return np.where(self.details.key[at] == self.text.pairs.key, at, -1)

    @cached_property
    def differences(self) -> Doubles:
        """Of each pair of the table its mean second difference; NaN where none was taken."""
        means = np.full(len(self.text.pairs.key), np.nan)
        if self.details is not None:
            row = (self.described >= 0).nonzero()[0]
            at = self.described[row]
            taken = self.details.compared[at] > 0
            row, at = row[taken], at[taken]
            means[row] = self.details.differences[at] / self.details.compared[at]
        return means

    @cached_property
    def owned_in_all(self) -> list[int]:
        """By block, the (token, neuron) pairs at which any latent is dominant; at least 1."""
        return [max(int(row.sum()), 1) for row in self.text.owned]

    @cached_property
    def owned(self) -> tuple[dict[int, list[list[Any]]], dict[int, list[list[Any]]]]:
        """Neurons of each latent, and latents of each neuron, with shares; most often first."""
        if self.details is None or len(self.details.owner_key) == 0:
            return {}, {}
        neuron, latent = np.divmod(self.details.owner_key, self.n_latents)
        count = self.details.owner_count
        share = count / np.bincount(neuron, count)[neuron]
        of_neuron = _grouped(neuron, latent, share, OWNERS)
        return _grouped(latent, neuron, count / max(self.details.tokens, 1), OWNED), of_neuron

    @cached_property
    def _ids(self) -> Ints:
        """The sequences as numpy has them, which takes them apart faster."""
        ids: Ints = self.sequences.cpu().numpy()
        return ids

    def context(self, tops: Strongest, row: int, place: int) -> Document:
        """One context: its tokens, the values at them, and where it is in the text."""
        sequence, position = int(tops.sequence[row, place]), int(tops.position[row, place])
        start, width = max(position - WINDOW, 0), self.sequences.shape[1]
        stop = min(position + WINDOW + 1, width)
        ids = self.strings.shown(self._ids[sequence, start:stop].tolist())
        first = start - position + WINDOW
        part = slice(first, first + len(ids))
        return {
            "tokens": list(self.strings(ids)),
            "values": [rounded(path[part]) for path in tops.values(row, place)],
            "peak": position - start,
            "sequence": sequence,
            "position": position,
        }


def _grouped(group: Ints, other: Ints, size: Doubles, most: int) -> dict[int, list[list[Any]]]:
    order = np.lexsort((-size, group))
    rank = ranks(first_of_groups(group[order]))
    found: dict[int, list[list[Any]]] = {}
    for at in order[rank < most].tolist():
        found.setdefault(int(group[at]), []).append([int(other[at]), short(size[at])])
    return found


def rounded(values: Floats) -> list[float]:
    """`short` of each; most of what is drawn is zero."""
    return [short(value) if value else value for value in values.tolist()]


def short(value: SupportsFloat) -> float:
    """Four significant digits, for what is drawn and not compared."""
    return float(f"{float(value):.4g}")
