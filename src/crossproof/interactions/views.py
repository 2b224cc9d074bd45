"""How the MLPs of a model read a crosscoder's latents: at their input, or in the stream before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.token_scale import check_constant
from crossproof.errors import CrossproofError
from crossproof.interactions.config import MLPs
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.stream import StreamView, TokenView
from crossproof.lm.hookpoints import Hookpoints
from crossproof.lm.model import LanguageModel
from crossproof.lm.stream import mlp_input, mlp_place, next_blocks, stream_place, upstream


@dataclass(frozen=True, eq=False)
class InputView:
    """A crosscoder that decodes at the MLP's input."""

    block: int
    dictionary: MLPDictionary
    hookpoint: int
    affine: Callable[[Tensor], Tensor] | None = None
    """From activations [B, P, D] to what is reconstructed besides latents and bias, if anything."""
    needs: tuple[str, ...] = ()

    def at(self, batch: EncodedBatch) -> TokenView:
        """The view of a batch's tokens."""
        if self.affine is None:
            return TokenView(self.dictionary, batch.latents)
        beside = self.affine(batch.x)[:, self.hookpoint]
        return TokenView(self.dictionary.shifted(beside), batch.latents)

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
        stream, output = self._read(batch, self.stream), self._output(batch)
        return self.view.at(batch.latents, stream, self.rest, output)

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
        weight = self.view.output_weight(self._output(batch))
        return both if weight is None else both * weight[:, None]

    def _output(self, batch: EncodedBatch) -> Float[Tensor, "B D"] | None:
        return None if self.output is None else self._read(batch, self.output)

    def _read(self, batch: EncodedBatch, name: str) -> Float[Tensor, "B D"]:
        return batch.model_activations[name][batch.scored].to(batch.x.dtype)


MLPView = InputView | UpstreamView


def mlp_views(
    model: LanguageModel, crosscoder: Crosscoder, mlps: MLPs = "next"
) -> dict[int, MLPView]:
    """The crosscoder as MLPs read it, by block; each token's rest is its own.

    An MLP whose input the crosscoder decodes at is read there; every other in the stream before
    its norm, where latents add up what the crosscoder writes upstream. "next": those whose input
    it decodes at or, if there are none, the first behind each hookpoint it writes; "all": every
    MLP that reads it. Raises CrossproofError for a block of a list that does not exist or reads
    nothing of it, for "all" if none does, and where an MLP or its norm has no view.
    """
    hookpoints = crosscoder.hookpoints
    reading = reading_mlps(model, hookpoints, crosscoder.written, mlps)
    views: dict[int, MLPView] = {}
    with torch.no_grad():
        for block, upstream_of_it in reading.items():
            at = hookpoints.blocks[block].mlp_in
            if at is not None:
                views[block] = _input_view(model, crosscoder, block, at)
            else:
                views[block] = _upstream_view(model, crosscoder, upstream_of_it, block)
    return views


def input_dictionaries(model: LanguageModel, crosscoder: Crosscoder) -> dict[int, MLPDictionary]:
    """By block: the dictionary at each MLP's input at which the crosscoder decodes.

    Raises CrossproofError where baselines are each token's own (`Crosscoder.is_affine`).
    """
    check_constant(crosscoder.layout.skips, crosscoder.token_scale, "the MLPs' inputs")
    with torch.no_grad():
        return {
            block: _input_view(model, crosscoder, block, at).dictionary
            for block, part in enumerate(crosscoder.hookpoints.blocks)
            if (at := part.mlp_in) is not None
        }


def _input_view(model: LanguageModel, crosscoder: Crosscoder, block: int, at: int) -> InputView:
    decoder, bias = crosscoder.decoder_vectors(at), crosscoder.b_dec[at] / crosscoder.scale[at]
    dictionary = MLPDictionary.build(model.mlp(block), decoder, bias)
    skipped_to = {written for _, written in crosscoder.layout.skips}
    own = at in skipped_to or crosscoder.token_scale.kind is not None
    return InputView(block, dictionary, at, crosscoder.affine if own else None)


def with_mean_rest(
    views: Mapping[int, MLPView], batches: Iterable[EncodedBatch]
) -> dict[int, MLPView]:
    """The same with every token's rest replaced by its mean over the tokens of `batches`.

    Batches must hold what the views need. Views at MLP inputs, which have no rest, are kept.
    Raises CrossproofError if the batches hold no token.
    """
    in_stream = {b: view for b, view in views.items() if isinstance(view, UpstreamView)}
    sums = {b: torch.zeros_like(view.view.decoder[0]) for b, view in in_stream.items()}
    tokens = 0
    for batch in batches:
        tokens += len(batch.x)
        for block, view in in_stream.items():
            sums[block] += view.rest_of(batch).sum(0)
    if in_stream and not tokens:
        raise CrossproofError(
            "No position counts in the sequences over which the mean of the stream's rest is "
            "taken: all are special tokens, among the first of their rows, or beyond the limits of "
            "norms; give another text, or skip these sequences."
        )
    means = {b: replace(view, rest=sums[b] / tokens) for b, view in in_stream.items()}
    return {**views, **means}


def described(view: MLPView, crosscoder: Crosscoder) -> str:
    """Where the crosscoder is read, in words for tables, pages and JSON."""
    names = crosscoder.hookpoints.names
    if isinstance(view, InputView):
        return f"MLP input {names[view.hookpoint]}"
    written = ", ".join(names[at] for at in view.hookpoints)
    return f"residual stream {written}, at the denominator of {view.stream}"


def needs_of(views: Mapping[int, MLPView]) -> tuple[str, ...]:
    """The hookpoints that a batch must hold besides the crosscoder's."""
    return tuple(dict.fromkeys(name for view in views.values() for name in view.needs))


def seen_by(views: Mapping[int, MLPView], batch: EncodedBatch) -> dict[int, TokenView]:
    """What every MLP sees of a batch."""
    return {block: view.at(batch) for block, view in views.items()}


def reading_mlps(
    model: LanguageModel, hookpoints: Hookpoints, written: Iterable[int], mlps: MLPs
) -> dict[int, tuple[int, ...]]:
    """By block: which of the hookpoints written add up in the stream before the chosen MLPs.

    None (an empty tuple) where a dictionary decodes at the MLP's own input. `mlps` and errors as
    those of `mlp_views`.
    """
    named = {at: stream_place(model, hookpoints.names[at]) for at in written}
    places = {at: place for at, place in named.items() if place is not None}
    inputs = hookpoints.mlp_blocks
    if mlps == "next" and inputs:
        return dict.fromkeys(inputs, ())
    readers = {block: mlp_place(model, block) for block in range(model.n_blocks)}
    reading = {b: at for b, reader in readers.items() if (at := upstream(places, reader))}
    reading |= dict.fromkeys(inputs, ())
    if mlps == "next":
        chosen = next_blocks(places.values(), list(readers.values()))
    elif reading:
        chosen = tuple(sorted(reading if mlps == "all" else mlps))
    else:
        raise CrossproofError(
            f"No MLP of '{model.name}' reads what this dictionary writes "
            f"({', '.join(hookpoints.names[at] for at in named)}): interactions need a dictionary "
            f"of an MLP's input or of the stream before one."
        )
    if wrong := [block for block in chosen if block not in reading]:
        raise CrossproofError(
            f"The MLP of block {wrong[0]} reads nothing of this dictionary; choose from blocks "
            f"{', '.join(map(str, sorted(reading)))}."
        )
    return {block: reading[block] for block in chosen}


def _upstream_view(
    model: LanguageModel, crosscoder: Crosscoder, at: tuple[int, ...], block: int
) -> UpstreamView:
    reads = mlp_input(model, block)
    decoder = torch.stack([crosscoder.decoder_vectors(i) for i in at]).sum(0)
    view = StreamView.build(model.mlp(block), reads.norm, decoder, reads.post)
    output = None if reads.post is None else f"blocks.{block}.mlp.hook_out"
    return UpstreamView(block, view, at, reads.stream, output)
