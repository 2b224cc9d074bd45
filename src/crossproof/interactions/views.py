"""How the MLPs of a model read a crosscoder's latents: at their input, or in the stream before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.stream import StreamView, TokenView
from crossproof.lm.model import LanguageModel
from crossproof.lm.stream import (
    StreamPlace,
    mlp_input,
    mlp_place,
    next_blocks,
    stream_place,
    upstream,
)

Rest = Literal["exact", "mean"]
"""What stands for the part of the stream that the dictionary does not describe (THEORY T6)."""
MLPs = Literal["next", "all"] | Sequence[int]
"""Which blocks' MLPs are read: those at or next behind the hookpoints written, all, or a list."""


@dataclass(frozen=True, eq=False)
class InputView:
    """A crosscoder that decodes at the MLP's input."""

    block: int
    dictionary: MLPDictionary
    hookpoint: int
    needs: tuple[str, ...] = ()

    def at(self, batch: EncodedBatch) -> TokenView:
        """The view of a batch's tokens."""
        return TokenView(self.dictionary, batch.latents)

    def inputs(
        self, batch: EncodedBatch, x_hat: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """What the MLP of `dictionary` reads, and the reconstruction in its place."""
        return batch.x[:, self.hookpoint], x_hat[:, self.hookpoint]


@dataclass(frozen=True, eq=False)
class UpstreamView:
    """A crosscoder that decodes in the residual stream before the MLP's norm."""

    block: int
    view: StreamView
    hookpoints: tuple[int, ...]
    """The crosscoder's hookpoints whose decoder vectors add up in the stream."""
    stream: str
    output: str | None
    """The hookpoint of the MLP's output, where a second norm follows."""
    rest: Float[Tensor, " D"] | None = None
    """The mean rest; None: each token's own."""

    @property
    def dictionary(self) -> MLPDictionary:
        """The MLP behind its norm's linear part; baselines are those of biases alone."""
        return self.view.frozen

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Hookpoints whose activations a batch must hold."""
        return tuple(name for name in (self.stream, self.output) if name is not None)

    def at(self, batch: EncodedBatch) -> TokenView:
        """The view of a batch's tokens, at the model's own denominators."""
        output = None if self.output is None else self._read(batch, self.output)
        return self.view.at(batch.latents, self._read(batch, self.stream), self.rest, output)

    def inputs(
        self, batch: EncodedBatch, x_hat: Float[Tensor, "B P D"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D"]]:
        """The stream over its denominator, and the same less the reconstruction's error."""
        stream = self._read(batch, self.stream)
        at = list(self.hookpoints)
        error = (batch.x[:, at] - x_hat[:, at]).sum(1)
        s = self.view.denominators(stream)[:, None]
        return stream / s, (stream - error) / s

    def rest_of(self, batch: EncodedBatch) -> Float[Tensor, "B D"]:
        """What the stream holds beside the dictionary at each token, over its denominator."""
        return self.view.rest_of(batch.latents, self._read(batch, self.stream))

    def norm_interaction(self, batch: EncodedBatch) -> Float[Tensor, "B 2"]:
        """T7 with everything the latents wrote taken out, and the mean over single latents."""
        stream = self._read(batch, self.stream)
        latents, decoder = batch.latents, self.view.decoder
        whole = torch.zeros_like(stream)
        written = latents.values[:, None] * decoder[latents.indices]
        whole.index_add_(0, latents.token_index, written)
        single = self.view.norm_interaction(stream[latents.token_index], written)
        mean = torch.zeros_like(stream[:, 0]).index_add_(0, latents.token_index, single)
        counts = latents.offsets.diff().clamp_min(1)
        both = torch.stack([self.view.norm_interaction(stream, whole), mean / counts], 1)
        return both if self.output is None else both * self.at(batch).weight[:, None]

    def _read(self, batch: EncodedBatch, name: str) -> Float[Tensor, "B D"]:
        return batch.model_activations[name][batch.scored].to(batch.x.dtype)


MLPView = InputView | UpstreamView


def mlp_views(model: LanguageModel, crosscoder: Crosscoder, mlps: MLPs = "next") -> list[MLPView]:
    """The crosscoder as MLPs read it, in the order of blocks; each token's rest is its own.

    An MLP whose input the crosscoder decodes at is read there; every other in the stream before
    its norm, where latents add up what the crosscoder writes upstream. "next": those whose input
    it decodes at or, if there are none, the first behind each hookpoint it writes; "all": every
    MLP that reads it. Raises CrossproofError if there is none, or for a block of a list that does
    not exist or reads nothing of it.
    """
    places = _places(model, crosscoder)
    views = []
    with torch.no_grad():
        for block in _blocks(model, crosscoder, places, mlps):
            at = crosscoder.hookpoints.blocks[block].mlp_in
            if at is not None:
                decoder, bias = crosscoder.decoder_vectors(at), crosscoder.decoder_bias(at)
                dictionary = MLPDictionary.build(model.mlp(block), decoder, bias)
                views.append(InputView(block, dictionary, at))
            else:
                views.append(_upstream_view(model, crosscoder, places, block))
    return views


def with_mean_rest(views: Sequence[MLPView], batches: Iterable[EncodedBatch]) -> list[MLPView]:
    """The same with every token's rest replaced by its mean over the tokens of `batches`.

    Batches must hold what the views need. Views at MLP inputs, which have no rest, are kept.
    """
    sums = {view.block: 0.0 for view in views if isinstance(view, UpstreamView)}
    tokens = 0
    for batch in batches:
        tokens += len(batch.x)
        for view in views:
            if isinstance(view, UpstreamView):
                sums[view.block] = sums[view.block] + view.rest_of(batch).sum(0)
    means = {block: total / max(tokens, 1) for block, total in sums.items()}
    return [
        replace(view, rest=means[view.block]) if isinstance(view, UpstreamView) else view
        for view in views
    ]


def _places(model: LanguageModel, crosscoder: Crosscoder) -> dict[int, StreamPlace]:
    """The hookpoints that it writes in the stream, by index."""
    named = {at: stream_place(model, crosscoder.hookpoints.names[at]) for at in crosscoder.written}
    return {at: place for at, place in named.items() if place is not None}


def _blocks(
    model: LanguageModel, crosscoder: Crosscoder, places: dict[int, StreamPlace], mlps: MLPs
) -> Sequence[int]:
    inputs = crosscoder.hookpoints.mlp_blocks
    if mlps == "next" and inputs:
        return inputs
    readers = [mlp_place(model, block) for block in range(model.n_blocks)]
    reading = {b for b, reader in enumerate(readers) if upstream(places, reader)} | set(inputs)
    if not reading:
        raise CrossproofError(
            f"No MLP of '{model.name}' reads what this dictionary writes "
            f"({', '.join(crosscoder.hookpoints.names[at] for at in crosscoder.written)}): "
            f"interactions need a dictionary of an MLP's input or of the stream before one."
        )
    if mlps == "next":
        return next_blocks(places.values(), readers)
    chosen = sorted(reading if mlps == "all" else {int(block) for block in mlps})
    if wrong := [block for block in chosen if block not in reading]:
        raise CrossproofError(
            f"The MLP of block {wrong[0]} reads nothing of this dictionary; choose from blocks "
            f"{', '.join(map(str, sorted(reading)))}."
        )
    return chosen


def _upstream_view(
    model: LanguageModel, crosscoder: Crosscoder, places: dict[int, StreamPlace], block: int
) -> UpstreamView:
    reads = mlp_input(model, block)
    at = upstream(places, mlp_place(model, block))
    decoder = torch.stack([crosscoder.decoder_vectors(i) for i in at]).sum(0)
    view = StreamView.build(model.mlp(block), reads.norm, decoder, reads.post)
    output = None if reads.post is None else f"blocks.{block}.mlp.hook_out"
    return UpstreamView(block, view, at, reads.stream, output)
