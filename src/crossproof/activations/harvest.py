"""Activations of a language model as shuffled batches, in an order that can be sought."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.config import PositionRule
from crossproof.activations.positions import scored_positions, within_limits
from crossproof.activations.token_rows import TokenRows
from crossproof.errors import CrossproofError
from crossproof.lm import Hookpoints, LanguageModel


@dataclass(frozen=True, eq=False)
class _Order:
    """One epoch's order of sequences; `ends` counts scored tokens up to and with each."""

    epoch: int
    sequences: Int[Tensor, " S"]
    ends: Int[Tensor, " S"]


@dataclass(frozen=True, eq=False)
class _Chunk:
    """The scored activations of one buffer, unshuffled, and the order to read them in."""

    epoch: int
    chunk: int
    activations: Float[Tensor, "M P D"]
    order: Int[Tensor, " M"]


class Harvest:
    """Endless batches of activations [B,P,D], a pure function of the step.

    Behind those of the P hookpoints stand the activations of `also`, if any are named.

    Each epoch permutes the sequences and joins their scored tokens into one stream; each
    `buffer_batches` batches of the stream are a chunk, shuffled within itself. A batch holds only
    scored positions, and one forward pass serves all hookpoints. Where the rule limits norms, the
    places of tokens beyond them are taken by other tokens of their chunk, so that batches stay
    equally large. The memory needed is that of one chunk, and of a few numbers a sequence. Raises
    CrossproofError when the corpus cannot fill a batch, or the buffer cannot hold a sequence.
    """

    def __init__(
        self,
        model: LanguageModel,
        sequences: Int[Tensor, "S T"] | TokenRows,
        hookpoints: Hookpoints,
        batch_tokens: int,
        buffer_batches: int = 32,
        seed: int = 0,
        forward_sequences: int = 32,
        positions: PositionRule = PositionRule(),  # noqa: B008  (frozen)
        also: Sequence[str] = (),
    ) -> None:
        for name, value in (
            ("batch_tokens", batch_tokens),
            ("buffer_batches", buffer_batches),
            ("forward_sequences", forward_sequences),
        ):
            if value < 1:
                raise CrossproofError(
                    f"{name} is {value}; it must be at least 1.", code="CP-OPTION"
                )
        self.model = model
        self.sequences = sequences
        self.hookpoints = hookpoints
        self.names = (*hookpoints.names, *also)
        self.batch_tokens = batch_tokens
        self.buffer_batches = buffer_batches
        self.seed = seed
        self.forward_sequences = forward_sequences
        self.positions = positions
        if isinstance(sequences, TokenRows):
            self._counts = sequences.scored_counts(positions.skip_first)
        else:
            self._counts = self._scored(sequences).sum(dim=1)
        self._batches = int(self._counts.sum()) // batch_tokens
        self._check_sizes()
        self._order: _Order | None = None
        self._chunk: _Chunk | None = None
        self._buffer: Tensor | None = None
        self._reader = ThreadPoolExecutor(1, "tokens")
        self._ahead: tuple[tuple[int, int], Future[Tensor]] | None = None

    def __len__(self) -> int:
        """Batches in an epoch; the tokens left over are dropped (others in every epoch)."""
        return self._batches

    def batch(self, step: int) -> Float[Tensor, "B P D"]:
        """The batch of a step (float32, the caller's own); batches in order are cheapest.

        Raises CrossproofError naming hookpoint and step when an activation is NaN or infinite.
        """
        if step < 0:
            raise CrossproofError(
                f"There is no step {step}; steps count from 0.", code="CP-ARGUMENT"
            )
        epoch, within = divmod(step, len(self))
        number, place = divmod(within, self.buffer_batches)
        chunk = self._chunk
        if chunk is None or (chunk.epoch, chunk.chunk) != (epoch, number):
            chunk = self._chunk = self._harvest(epoch, number)
        rows = chunk.order[place * self.batch_tokens : (place + 1) * self.batch_tokens]
        batch = chunk.activations.index_select(0, rows).float()
        if batch.device.type == "cpu":
            self._check_finite(batch, step)
        return batch

    def iterate(self, start: int = 0) -> Iterator[Float[Tensor, "B P D"]]:
        """The batches of steps `start`, `start` + 1, ... without end."""
        step = start
        while True:
            yield self.batch(step)
            step += 1

    def __iter__(self) -> Iterator[Float[Tensor, "B P D"]]:
        return self.iterate()

    def _harvest(self, epoch: int, number: int) -> _Chunk:
        order = self._epoch_order(epoch)
        first, last, sequences = self._span(order, number)
        begin = sequences.start
        tokens = self._tokens(order, number).to(self.model.device)
        scored = self._scored(tokens)
        # A sequence that straddles two chunks is run for both, and gives each its own part.
        numbers = scored.flatten().cumsum(0).reshape(scored.shape)
        numbers += int(order.ends[begin]) - int(self._counts[order.sequences[begin]])
        wanted = scored & (numbers > first) & (numbers <= last)
        activations = self._space(last - first)
        self._fill(activations, tokens, wanted)
        shuffle = _generator(self.seed, epoch, number).permutation(last - first)
        rows = self._within_limits(activations, torch.from_numpy(shuffle).to(self.model.device))
        if rows.device.type != "cpu":  # all its batches at once: the host waits here anyway
            self._check_finite(activations, epoch * len(self) + number * self.buffer_batches)
        return _Chunk(epoch, number, activations, rows)

    def _span(self, order: _Order, number: int) -> tuple[int, int, slice]:
        """First and last token of a chunk in the epoch's stream, and the sequences they are in."""
        first = number * self.buffer_batches * self.batch_tokens
        last = min(first + self.buffer_batches * self.batch_tokens, len(self) * self.batch_tokens)
        begin = int(torch.searchsorted(order.ends, first, right=True))
        return first, last, slice(begin, int(torch.searchsorted(order.ends, last)) + 1)

    def _tokens(self, order: _Order, number: int) -> Int[Tensor, "R T"]:
        """The rows of a chunk. Those of the next one are looked up meanwhile, where they lie on a
        disk: the model need not wait for it."""
        if not isinstance(self.sequences, TokenRows):
            return self._looked_up(order, number)
        place = order.epoch, number
        ahead = self._ahead
        read = ahead[1].result() if ahead and ahead[0] == place else self._looked_up(order, number)
        self._ahead = None
        if (number + 1) * self.buffer_batches < len(self):
            following = self._reader.submit(self._looked_up, order, number + 1)
            self._ahead = (order.epoch, number + 1), following
        return read

    def _looked_up(self, order: _Order, number: int) -> Int[Tensor, "R T"]:
        return self.sequences[order.sequences[self._span(order, number)[2]]]

    def _scored(self, tokens: Int[Tensor, "S T"]) -> Bool[Tensor, "S T"]:
        return scored_positions(tokens, self.model.special_ids, self.positions.skip_first)

    def _within_limits(
        self, activations: Float[Tensor, "M P D"], order: Int[Tensor, " M"]
    ) -> Int[Tensor, " M"]:
        """The order without tokens beyond the limits, its beginning repeated in their places."""
        if not self.positions.norm_limits:
            return order
        limited = activations[:, : len(self.hookpoints)]
        kept = order[within_limits(limited, self.positions.norm_limits)[order]]
        if not len(kept):
            raise CrossproofError(
                "Every position's norm is beyond the limits: leave out fewer, by a higher "
                "--drop-outliers."
            )
        return kept.repeat(-(-len(order) // len(kept)))[: len(order)]

    def _fill(
        self,
        activations: Float[Tensor, "M P D"],
        tokens: Int[Tensor, "R T"],
        wanted: Bool[Tensor, "R T"],
    ) -> None:
        filled = 0
        for start in range(0, len(tokens), self.forward_sequences):
            part = slice(start, start + self.forward_sequences)
            rows = wanted[part].flatten().nonzero().squeeze(1)
            space = activations[filled : filled + len(rows)]

            def write(
                place: int, value: Tensor, rows: Tensor = rows, space: Tensor = space
            ) -> None:
                flat = value.reshape(-1, value.shape[-1]).float()
                torch.index_select(flat, 0, rows, out=space[:, place])

            self.model.read(tokens[part], self.names, write)
            filled += len(rows)

    def _space(self, n_tokens: int) -> Float[Tensor, "M P D"]:
        # One buffer for every chunk: fresh memory each time would cost its page faults again.
        if self._buffer is None:
            size = min(self.buffer_batches, len(self)) * self.batch_tokens
            shape = (size, len(self.names), self.model.d_model)
            self._buffer = torch.empty(shape, dtype=torch.float32, device=self.model.device)
        self._chunk = None
        return self._buffer[:n_tokens]

    def _epoch_order(self, epoch: int) -> _Order:
        if self._order is None or self._order.epoch != epoch:
            permutation = _generator(self.seed, epoch).permutation(len(self.sequences))
            sequences = torch.from_numpy(permutation).to(self.sequences.device)
            self._order = _Order(epoch, sequences, self._counts[sequences].cumsum(0))
        return self._order

    def _check_sizes(self) -> None:
        total, longest = int(self._counts.sum()), int(self._counts.max())
        if total == 0:
            raise CrossproofError(
                "The corpus has no scored token: all are BOS, EOS or padding, or among the first "
                "of their row, which are skipped; give another text or longer rows, or skip fewer."
            )
        if total < self.batch_tokens:
            raise CrossproofError(
                f"The corpus has {total} scored tokens, fewer than one batch of "
                f"{self.batch_tokens}; use a smaller batch or a longer corpus."
            )
        held = self.buffer_batches * self.batch_tokens
        if held < longest:
            raise CrossproofError(
                f"The shuffle buffer of {self.buffer_batches} batches of {self.batch_tokens} "
                f"tokens is smaller than one sequence of {longest}; raise batch_tokens, "
                f"buffer_batches or buffer_tokens."
            )

    def _check_finite(self, batch: Float[Tensor, "B P D"], step: int) -> None:
        # A finite sum has finite terms, and costs a fraction of looking at each.
        if torch.isfinite(batch.sum()):
            return
        finite = torch.isfinite(batch).all(dim=2).all(dim=0)
        for name, good in zip(self.names, finite.tolist(), strict=True):
            if not good:
                raise CrossproofError(
                    f"The activations at '{name}' hold NaN or infinity at step {step}; check the "
                    f"model's weights, or leave this hookpoint out.",
                    code="CP-NOT-FINITE",
                )


def _generator(seed: int, *where: int) -> np.random.Generator:
    return np.random.default_rng([seed, *where])
