"""What a second reading of the first sequences leaves: contexts of pairs, who dominates neurons."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.explorer.entries import Entries
from crossproof.explorer.pair_tally import Doubles
from crossproof.explorer.sorted_keys import Among, places
from crossproof.explorer.strongest import Floats, Ints, Strongest, largest
from crossproof.interactions.exact import in_float64
from crossproof.interactions.measuring import COLUMNS, SeenDominance, TokenPairs, token_pairs
from crossproof.interactions.second_differences import second_difference_sums
from crossproof.interactions.stream import TokenMixture, TokenView
from crossproof.interactions.views import MixtureView, MLPView, n_neurons, read_by

CONTEXTS = 3
"""Of each pair and of each neuron."""
COMPARED = 24
"""Tokens at which second differences of a pair are taken, if it is none of the strongest."""
_TOKENS_AT_ONCE = 128
MOST_OWNERS = 4_000_000
"""(Neuron, latent) counts that are kept; beyond them the rarest go."""


@dataclass(frozen=True)
class NeuronNumbers:
    """One number for each neuron of each measured block, those of experts one after another."""

    starts: Mapping[int, tuple[int, ...]]
    """By block, the first neuron of its MLP, or of each of its experts."""
    count: int

    @classmethod
    def of(cls, views: Mapping[int, MLPView]) -> NeuronNumbers:
        """Those of the MLPs that read a dictionary."""
        starts, count = {}, 0
        for block, view in views.items():
            ends = count + np.cumsum(neurons_of(view))
            starts[block] = (count, *ends[:-1].tolist())
            count = int(ends[-1])
        return cls(starts, count)

    def named(self, number: int) -> tuple[int, int]:
        """Block, and number within it (experts one after another)."""
        blocks, firsts = self._firsts
        at = bisect_right(firsts, number) - 1
        return blocks[at], number - firsts[at]

    @cached_property
    def _firsts(self) -> tuple[list[int], list[int]]:
        """Blocks, and the first neuron of each, ascending."""
        ordered = sorted((starts[0], block) for block, starts in self.starts.items())
        return [block for _, block in ordered], [first for first, _ in ordered]


def neurons_of(view: MLPView) -> list[int]:
    """How many neurons an MLP has, or each of its experts."""
    experts = view.experts if isinstance(view, MixtureView) else (view,)
    return [n_neurons(each) for each in experts]


@dataclass(frozen=True, eq=False)
class SeenPart:
    """What the tokens of a batch do to one MLP, or to one expert at its tokens."""

    block: int
    first_neuron: int
    view: TokenView
    tokens: Ints | None
    """None: all."""


def parts(
    seen: Mapping[int, TokenView | TokenMixture], numbers: NeuronNumbers
) -> Iterator[SeenPart]:
    """The MLPs of a batch, mixtures expert by expert; experts without tokens are left out."""
    for block, view in seen.items():
        starts = numbers.starts[block]
        if isinstance(view, TokenView):
            yield SeenPart(block, starts[0], view, None)
            continue
        for expert in view.experts:
            tokens = expert.tokens.cpu().numpy()
            yield SeenPart(block, starts[expert.expert], expert.view, tokens)


@dataclass(eq=False)
class DetailTally:
    """P described pairs (keys h·H + k, ascending) and all neurons, over the sequences read."""

    n_latents: int
    numbers: NeuronNumbers
    key: Ints
    together: Ints
    """[P] tokens with both active among those read here."""
    differences: Doubles
    """[P] sum of Σ_n ‖o_n‖ |δ²_n| over the `compared` ones."""
    compared: Ints
    """[P] all of them for the strongest pairs, the first `COMPARED` or so for others."""
    whole: NDArray[np.bool_]
    """[P] which are the strongest."""
    contexts: Strongest
    """Of pairs: I, the first latent's activation, the second's."""
    examples: Strongest
    """Of neurons: the dominant latent's activation."""
    owner_key: Ints
    """neuron · H + latent, ascending."""
    owner_count: Ints
    tokens: int = 0

    @classmethod
    def empty(
        cls,
        n_latents: int,
        views: Mapping[int, MLPView],
        key: Ints,
        whole: NDArray[np.bool_],
    ) -> DetailTally:
        """Nothing read yet."""
        numbers, none = NeuronNumbers.of(views), np.zeros(0, dtype=np.int64)
        zero, sums = np.zeros(len(key), dtype=np.int64), np.zeros(len(key))
        pairs = Strongest.empty(len(key), CONTEXTS, 3)
        neurons = Strongest.empty(numbers.count, CONTEXTS, 1)
        owners = none, none.copy()
        return cls(n_latents, numbers, key, zero, sums, zero.copy(), whole, pairs, neurons, *owners)

    def add(self, batch: EncodedBatch, views: Mapping[int, MLPView]) -> None:
        """Takes one batch of sequences."""
        seen = read_by(views, batch)
        entries = Entries.of(batch)
        pairs = token_pairs(batch.latents, seen, finite=True)
        self._add_pairs(pairs, batch, entries)
        self._add_differences(seen, batch.latents.n_tokens)
        for block, dominance in zip(pairs.blocks, pairs.dominance, strict=True):
            for part in dominance:
                first = self.numbers.starts[block][part.expert]
                self._add_owners(part, first)
                self._add_examples(part, first, batch, entries)
        self.tokens += batch.latents.n_tokens

    def _add_pairs(self, measured: TokenPairs, batch: EncodedBatch, entries: Entries) -> None:
        first, second = (side.cpu().numpy() for side in measured.entries)
        indices = measured.latents.indices.cpu().numpy()
        row = self._row(indices[first] * self.n_latents + indices[second])
        chosen = (row >= 0).nonzero()[0]
        np.add.at(self.together, row[chosen], 1)
        both = measured.sums[..., COLUMNS["I"]].sum((1, 2)).cpu().numpy()[chosen]
        token = measured.latents.token_index.cpu().numpy()[first[chosen]]
        sequence = batch.sequence.cpu().numpy()[token] + batch.first
        position = batch.position.cpu().numpy()[token]
        order = np.lexsort((position, sequence, row[chosen]))
        values = both[order].astype(np.float32)
        places = row[chosen][order], sequence[order], position[order]
        found = Entries(*places, values, batch.first, entries.shape)
        peaks = found.peaks[values[found.peaks] > 0]
        at = tuple(part[peaks] for part in places)

        def around(which: Ints) -> Floats:
            rows, sequences, positions = (part[which] for part in at)
            latents = np.divmod(self.key[rows], self.n_latents)
            sides = [entries.around(latent, sequences, positions) for latent in latents]
            return np.stack([found.around(rows, sequences, positions), *sides], 1)

        self.contexts.add(at[0], values[peaks], at[1], at[2], around)

    def _row(self, key: Ints) -> Ints:
        if len(self.key) == 0:
            return np.full(len(key), -1)
        at = np.searchsorted(self.key, key).clip(0, len(self.key) - 1)
        return np.where(self.key[at] == key, at, -1)

    def _add_differences(self, seen: Mapping[int, TokenView | TokenMixture], tokens: int) -> None:
        """A few tokens at a time, so that pairs drop out that have been compared often enough."""
        exact = {block: _in_float64(view) for block, view in seen.items()}
        for start in range(0, tokens, _TOKENS_AT_ONCE):
            rows = (self.whole | (self.compared < COMPARED)).nonzero()[0]
            if len(rows) == 0:
                return
            pairs = torch.from_numpy(np.stack(np.divmod(self.key[rows], self.n_latents), 1))
            stop = min(start + _TOKENS_AT_ONCE, tokens)
            some = {block: view.rows(start, stop) for block, view in exact.items()}
            counts = np.zeros(len(rows), dtype=np.int64)
            for part in parts(some, self.numbers):
                view = part.view
                chosen = pairs.to(view.latents.indices.device)
                sums = second_difference_sums(
                    view.dictionary, view.latents, chosen, "others", view.weight
                )
                self.differences[rows] += sums.neurons.cpu().numpy()
                counts = np.maximum(counts, sums.tokens.cpu().numpy())
            self.compared[rows] += counts

    def _add_owners(self, part: SeenDominance, first: int) -> None:
        owner = part.who.owner.cpu().numpy()
        token, neuron = (owner >= 0).nonzero()
        latent = part.view.latents.indices.cpu().numpy()[owner[token, neuron]]
        key, count = np.unique((first + neuron) * self.n_latents + latent, return_counts=True)
        at, known = places(self.owner_key, key)
        self.owner_count[at[known]] += count[known]
        among = Among(len(self.owner_key), at[~known])
        self.owner_key = among(self.owner_key, key[~known])
        self.owner_count = among(self.owner_count, count[~known])
        if len(self.owner_key) > MOST_OWNERS:
            kept = largest(self.owner_count, MOST_OWNERS // 2)
            self.owner_key, self.owner_count = self.owner_key[kept], self.owner_count[kept]

    def _add_examples(
        self, part: SeenDominance, first: int, batch: EncodedBatch, entries: Entries
    ) -> None:
        owner, size = part.who.owner.cpu().numpy(), part.who.value.abs().float().cpu().numpy()
        tokens = np.arange(len(size)) if part.tokens is None else part.tokens.cpu().numpy()
        sequence, position = batch.sequence.cpu().numpy(), batch.position.cpu().numpy()
        indices = part.view.latents.indices.cpu().numpy()
        neurons = np.arange(size.shape[1])
        for row in np.unique(sequence[tokens]):
            at = (sequence[tokens] == row).nonzero()[0]
            best = at[size[at].argmax(0)]
            there = owner[best, neurons] >= 0
            latent = indices[owner[best, neurons].clip(0)][there]
            sequences = np.full(len(latent), row + batch.first)
            positions = position[tokens[best]][there]

            def around(
                which: Ints, latent: Ints = latent, s: Ints = sequences, p: Ints = positions
            ) -> Floats:
                return entries.around(latent[which], s[which], p[which])[:, None]

            values = size[best, neurons][there]
            self.examples.add(first + neurons[there], values, sequences, positions, around)


def _in_float64(seen: TokenView | TokenMixture) -> TokenView | TokenMixture:
    """The same with weights in float64, converted once for many calls."""
    if isinstance(seen, TokenView):
        return replace(seen, dictionary=in_float64(seen.dictionary))
    experts = tuple(
        replace(e, view=replace(e.view, dictionary=in_float64(e.view.dictionary)))
        for e in seen.experts
    )
    return replace(seen, experts=experts)
