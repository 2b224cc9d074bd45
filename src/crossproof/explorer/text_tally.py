"""What one pass over the text leaves of every latent: counts, histogram, contexts, pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.evaluation.pair_sums import by_sequence
from crossproof.explorer.entries import Entries
from crossproof.explorer.pair_tally import Doubles, PairTally
from crossproof.explorer.strongest import Ints, Strongest, first_largest, first_of_groups
from crossproof.files import read_tensors, write_tensors
from crossproof.interactions.measuring import COLUMNS, TokenPairs

BINS = 96
"""Of activations by size, four an octave, the middle one from 1 up."""
PER_OCTAVE, MIDDLE = 4, 56
TOP, DRAWN = 12, 16
"""Contexts of each latent: strongest ones, and ones drawn by chance among all sequences."""


@dataclass(eq=False)
class TextTally:
    """Sums over the sequences read so far; H latents, L blocks."""

    active: Ints
    """[H] tokens at which a latent is active."""
    active_measured: Ints
    """[H] the same, of the tokens at which interactions are measured."""
    total: Doubles
    """[H] sum of its activations."""
    largest: Doubles
    """[H] the largest by size, with its sign."""
    bins: Ints
    """[H, BINS] activations by size."""
    owned: Ints
    """[L, H] (token, neuron) pairs at which it is dominant."""
    interaction: Doubles
    """[H] I with all partners, both directions."""
    top: Strongest
    drawn: Strongest
    pairs: PairTally
    totals: dict[str, Doubles]
    """By form and `dominated` [L]; `tokens` and, of those, `measured` [1]."""
    done: int = 0
    """Sequences."""

    @classmethod
    def empty(cls, n_latents: int, blocks: int) -> TextTally:
        """Nothing read yet."""
        counts, sums = np.zeros(n_latents, dtype=np.int64), np.zeros(n_latents)
        return cls(
            active=counts,
            active_measured=counts.copy(),
            total=sums,
            largest=sums.copy(),
            bins=np.zeros((n_latents, BINS), dtype=np.int64),
            owned=np.zeros((blocks, n_latents), dtype=np.int64),
            interaction=sums.copy(),
            top=Strongest.empty(n_latents, TOP, 1),
            drawn=Strongest.empty(n_latents, DRAWN, 1),
            pairs=PairTally.empty(n_latents, blocks),
            totals={},
        )

    def add(self, batch: EncodedBatch, pairs: TokenPairs | None) -> None:
        """Takes a batch and its pairs (None where they are not measured)."""
        entries = Entries.of(batch)
        self._add_activations(entries)
        self._add_contexts(entries)
        self._sum({"tokens": np.array([float(batch.latents.n_tokens)])})
        if pairs is not None:
            self._add_pairs(batch, pairs)
            size = len(self.active_measured)
            self.active_measured += np.bincount(entries.latent, minlength=size)
        self.done = batch.first + len(batch.tokens)

    def _add_activations(self, entries: Entries) -> None:
        size = len(self.active)
        self.active += np.bincount(entries.latent, minlength=size)
        values = entries.value.astype(np.float64)
        self.total += np.bincount(entries.latent, values, minlength=size)
        height = np.log2(np.abs(values)) * PER_OCTAVE
        at = (np.floor(height).astype(np.int64) + MIDDLE).clip(0, BINS - 1)
        np.add.at(self.bins.reshape(-1), entries.latent * BINS + at, 1)
        first = first_largest(np.abs(values), first_of_groups(entries.latent))
        latent = entries.latent[first]
        larger = np.abs(values[first]) > np.abs(self.largest[latent])
        self.largest[latent[larger]] = values[first][larger]

    def _add_contexts(self, entries: Entries) -> None:
        peaks = entries.peaks
        latent, sequence = entries.latent[peaks], entries.sequence[peaks]
        position = entries.position[peaks]

        def around(which: Ints) -> NDArray[np.float32]:
            return entries.around(latent[which], sequence[which], position[which])[:, None]

        size = np.abs(entries.value[peaks])
        self.top.add(latent, size, sequence, position, around)
        self.drawn.add(latent, _lots(latent, sequence), sequence, position, around)

    def _add_pairs(self, batch: EncodedBatch, pairs: TokenPairs) -> None:
        per_pair = self.pairs.add(pairs)
        for side in pairs.entries:
            latent = pairs.latents.indices[side].cpu().numpy()
            self.interaction += np.bincount(latent, per_pair, minlength=len(self.interaction))
        self.owned += pairs.owned().cpu().numpy()
        sums = {name: values.sum(0) for name, values in by_sequence(pairs, batch).items()}
        sums["measured"] = np.atleast_1d(sums.pop("tokens"))
        self._sum(sums)

    def _sum(self, sums: dict[str, Doubles]) -> None:
        for name, values in sums.items():
            self.totals[name] = self.totals[name] + values if name in self.totals else values

    @property
    def tokens(self) -> int:
        """Scored positions read so far."""
        return int(self.totals["tokens"][0]) if self.totals else 0

    @property
    def measured(self) -> int:
        """Those of them at which interactions were measured."""
        return int(self.totals["measured"][0]) if "measured" in self.totals else 0

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms that were summed; none where no MLP reads the dictionary."""
        return tuple(form for form in COLUMNS if form in self.totals)

    def save(self, path: Path) -> None:
        """Writes all of it to one file, complete or not at all."""
        arrays: dict[str, NDArray[np.generic]] = {name: getattr(self, name) for name in _PLAIN}
        arrays |= self.top.arrays("top") | self.drawn.arrays("drawn") | self.pairs.arrays()
        arrays |= {f"totals.{name}": values for name, values in self.totals.items()}
        arrays["done"] = np.array([self.done])
        shared = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        write_tensors(path, shared)

    @classmethod
    def load(cls, path: Path) -> TextTally:
        """What `save` wrote; CrossproofError if the file is damaged."""
        arrays = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
        plain = {name: arrays[name] for name in _PLAIN}
        prefix = "totals."
        return cls(
            **plain,
            top=Strongest.restored("top", arrays),
            drawn=Strongest.restored("drawn", arrays),
            pairs=PairTally.restored(arrays),
            totals={n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)},
            done=int(arrays["done"][0]),
        )


_PLAIN = ("active", "active_measured", "total", "largest", "bins", "owned", "interaction")


def _lots(latent: Ints, sequence: Ints) -> NDArray[np.float32]:
    """A number in [0, 1) drawn for each latent and sequence, always the same one."""
    mixed = (latent.astype(np.uint64) << np.uint64(32)) ^ sequence.astype(np.uint64)
    for multiplier, shift in ((0xBF58476D1CE4E5B9, 30), (0x94D049BB133111EB, 27)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(multiplier)
    lots: NDArray[np.float32] = ((mixed >> np.uint64(40)) / 2.0**24).astype(np.float32)
    return lots
