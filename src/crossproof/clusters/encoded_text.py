"""`EncodedText`: a text with its latents in memory, and the pieces of it around activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crossproof.crosscoder.encode import encode_batches
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import Context, end_of_text, token_strings
from crossproof.evaluation.slices import Rows, cut, joined, read_slices, subject_of, telling
from crossproof.lm.model import LanguageModel
from crossproof.lm.vocabulary import named_ids
from crossproof.working import told

PARTS = ("explain shown", "explain options", "judge shown", "judge options", "score")
"""What a text is dealt out to, sequence by sequence. No sequence serves two purposes, and what is
shown of a cluster never comes from the sequences that its candidate members are shown on: latents
active together would otherwise be recognised by their common text."""
BATCH, SLICE_TOKENS = 16, 1 << 13
"""Sequences a forward pass, and tokens a slice, about."""
BEFORE, AFTER = 12, 6
"""Tokens shown on either side of a position."""
Step = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


@dataclass(frozen=True, eq=False)
class EncodedText:
    """Sequences [S, T], which positions are scored, and the latents of those B positions."""

    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    latents: SparseLatents
    tokenizer: PreTrainedTokenizerBase | None = None
    before: int = BEFORE
    after: int = AFTER

    @classmethod
    def read(
        cls,
        model: LanguageModel,
        crosscoder: Crosscoder,
        sequences: Int[Tensor, "S T"],
        batch_sequences: int = BATCH,
        progress: Step | None = None,
    ) -> EncodedText:
        """One pass of the model; memory grows with the active latents, not with D or H.

        Raises CrossproofError if there are no sequences.
        """
        tokens, scored, latents = [], [], []
        batches = encode_batches(model, crosscoder, sequences, batch_sequences)
        for batch in told(batches, lambda each: each.end, len(sequences), progress):
            tokens.append(batch.tokens.cpu())
            scored.append(batch.scored.cpu())
            latents.append(batch.latents)
        if not tokens:
            raise CrossproofError("There is no text to read: give at least one sequence.")
        return cls(torch.cat(tokens), torch.cat(scored), _joined(latents), model.tokenizer)

    def rows(self) -> dict[str, Tensor]:
        """Its tensors, for a file."""
        latents = self.latents
        rows = {"tokens": self.tokens, "scored": self.scored, "counts": latents.offsets.diff()}
        return rows | {"indices": latents.indices, "values": latents.values}

    @classmethod
    def of_rows(
        cls, rows: dict[str, Tensor], n_latents: int, tokenizer: PreTrainedTokenizerBase | None
    ) -> EncodedText:
        """What `rows` of one text were, or of several one below the other."""
        offsets = torch.nn.functional.pad(rows["counts"].cumsum(0), (1, 0))
        latents = SparseLatents(offsets, rows["indices"], rows["values"], n_latents)
        return cls(rows["tokens"], rows["scored"], latents, tokenizer)

    @cached_property
    def positions(self) -> Int[Tensor, "B 2"]:
        """Sequence and position of each scored token."""
        return self.scored.nonzero()

    def active_sequences(self) -> Int[Tensor, " H"]:
        """Sequences in which each latent is active anywhere."""
        sequence = self.positions[self.latents.token_index, 0]
        keys = torch.unique(self.latents.indices * len(self.tokens) + sequence)
        return torch.bincount(keys // len(self.tokens), minlength=self.latents.n_latents)

    def activations_of(self, latent: int) -> tuple[Int[Tensor, "A 2"], Float[Tensor, " A"]]:
        """Where a latent is active (sequence and position), and how strongly."""
        offsets, tokens, order = self.latents.transposed
        span = slice(int(offsets[latent]), int(offsets[latent + 1]))
        return self.positions[tokens[span]], self.latents.values[order[span]]

    def strongest(self, latent: int, count: int) -> list[Context]:
        """Around the latent's largest activations, at most one a sequence, strongest first."""
        positions, values = self.activations_of(latent)
        peaks = [(-v, *at) for at, v in zip(positions.tolist(), values.tolist(), strict=True)]
        return self._contexts(latent, (at for _, *at in sorted(peaks)), count)

    def active(self, latent: int, count: int, seed: int) -> list[Context]:
        """Around activations drawn at random, at most one a sequence."""
        positions, _ = self.activations_of(latent)
        order = np.random.default_rng((seed, latent, 1)).permutation(len(positions))
        return self._contexts(latent, positions[torch.from_numpy(order)].tolist(), count)

    def inactive(self, latent: int, count: int, seed: int) -> list[Context]:
        """Around scored positions drawn at random, at which and around which it is never active.

        Every token of the window is checked; at most one a sequence, and fewer than `count` where
        the text has no more.
        """
        positions, _ = self.activations_of(latent)
        active = torch.zeros(self.tokens.shape, dtype=torch.bool)
        active[positions[:, 0], positions[:, 1]] = True
        order = np.random.default_rng((seed, latent, 0)).permutation(len(self.positions))
        drawn = self.positions[torch.from_numpy(order)].tolist()
        quiet = (at for at in drawn if not active[at[0], self._span(at[1])].any())
        return self._contexts(latent, quiet, count)

    def around(self, latent: int, row: int, column: int) -> Context:
        """The window around one position, with the latent's activations in it."""
        positions, values = self.activations_of(latent)
        here, span = positions[:, 0] == row, self._span(column)
        activations = values.new_zeros(self.tokens.shape[1])
        activations[positions[here, 1]] = values[here]
        ids = self.tokens[row, span].tolist()
        shown = slice(span.start, span.start + end_of_text(ids, named_ids(self.tokenizer)))
        strings = token_strings(self.tokenizer, ids[: shown.stop - span.start])
        return Context(strings, tuple(activations[shown].tolist()), column - span.start)

    def _contexts(self, latent: int, drawn: Iterable[list[int]], count: int) -> list[Context]:
        """Windows around the first `count` of the positions that lie in different sequences."""
        firsts: dict[int, int] = {}
        for row, column in drawn:
            if len(firsts) == count:
                break
            firsts.setdefault(row, column)
        return [self.around(latent, row, column) for row, column in firsts.items()]

    def _span(self, column: int) -> slice:
        width = self.tokens.shape[1]
        return slice(max(column - self.before, 0), min(column + self.after + 1, width))


def deal(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    progress: Step | None = None,
    slices: Path | None = None,
) -> dict[str, EncodedText]:
    """`sequences` dealt out to PARTS in turn and read, in slices that are kept in a folder and that
    torchrun's processes share out, if there is one.

    Raises CrossproofError if there are fewer sequences than parts.
    """
    if len(sequences) < len(PARTS):
        raise CrossproofError(
            f"{len(sequences)} sequences cannot be dealt out to {len(PARTS)} purposes: give more "
            f"--tokens or a smaller --context."
        )
    dealt = [cut(sequences[at :: len(PARTS)], BATCH, SLICE_TOKENS) for at in range(len(PARTS))]

    def read(first: int, part: Tensor) -> Rows:
        tell = telling(progress, first, len(sequences))
        return EncodedText.read(model, crosscoder, part, BATCH, tell).rows()

    every = list(chain.from_iterable(dealt))
    rows = iter(read_slices(slices, every, partial(subject_of, model, crosscoder), read))
    parts: dict[str, EncodedText] = {}
    for part, its in zip(PARTS, dealt, strict=True):
        whole = joined(list(islice(rows, len(its))))
        parts[part] = EncodedText.of_rows(whole, crosscoder.n_latents, model.tokenizer)
    return parts


def plain(context: Context) -> str:
    """The text of a context on one line."""
    return " ".join("".join(context.tokens).split())


def marked(context: Context) -> str:
    """The same with its peak between « and »."""
    before, after = context.tokens[: context.peak], context.tokens[context.peak + 1 :]
    peak = context.tokens[context.peak]
    word = peak.strip() or "↵"
    space = " " if peak[:1].isspace() else ""
    return " ".join("".join([*before, space, f"«{word}»", *after]).split())


def _joined(parts: list[SparseLatents]) -> SparseLatents:
    counts = torch.cat([part.offsets.diff() for part in parts])
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    indices = torch.cat([part.indices for part in parts])
    values = torch.cat([part.values for part in parts])
    return SparseLatents(offsets.cpu(), indices.cpu(), values.cpu(), parts[0].n_latents)
