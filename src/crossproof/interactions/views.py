"""How the MLPs of a model read a crosscoder's latents: at their input, or in the stream before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.token_scale import TokenScale, check_constant
from crossproof.errors import CrossproofError
from crossproof.interactions.config import MLPs
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.stream import StreamView, TokenMixture, TokenView
from crossproof.interactions.view_kinds import Besides
from crossproof.interactions.view_kinds import InputView as InputView
from crossproof.interactions.view_kinds import MixtureView as MixtureView
from crossproof.interactions.view_kinds import MLPView as MLPView
from crossproof.interactions.view_kinds import UpstreamView as UpstreamView
from crossproof.interactions.view_kinds import is_upstream as is_upstream
from crossproof.interactions.view_kinds import n_neurons as n_neurons
from crossproof.lm.hookpoints import Hookpoints
from crossproof.lm.mlp import MLPWeights
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Unnormed
from crossproof.lm.stream import (
    SecondNorm,
    mlp_input,
    mlp_place,
    next_blocks,
    rewritten_between,
    second_norm,
    stream_place,
    upstream,
)


def mlp_views(
    model: LanguageModel, crosscoder: Crosscoder, mlps: MLPs = "next", mixtures: bool = False
) -> dict[int, MLPView]:
    """The crosscoder as MLPs read it, by block; each token's rest is its own.

    An MLP whose input the crosscoder decodes at is read there; every other in the stream before
    its norm, where latents add up what the crosscoder writes upstream. "next": those whose input
    it decodes at or, if there are none, the first behind each hookpoint it writes; "all": every
    MLP that reads it. Raises CrossproofError for a block of a list that does not exist or reads
    nothing of it, for "all" if none does, and where an MLP or its norm has no view; a mixture of
    experts has none unless `mixtures` says that the caller can tell its parts apart.
    """
    hookpoints = crosscoder.hookpoints
    reading = reading_mlps(model, hookpoints, crosscoder.written, mlps)
    views: dict[int, MLPView] = {}
    with torch.no_grad():
        for block, upstream_of_it in reading.items():
            mixed = mixtures and model.is_mixture(block)
            mlps_of_it = model.mixture(block).experts if mixed else (model.mlp(block),)
            seen = _views(model, crosscoder, block, mlps_of_it, upstream_of_it)
            views[block] = MixtureView(block, model.mixture(block), seen) if mixed else seen[0]
    return views


def _views(
    model: LanguageModel,
    crosscoder: Crosscoder,
    block: int,
    mlps: Sequence[MLPWeights],
    upstream_of_it: tuple[int, ...],
) -> tuple[InputView | UpstreamView, ...]:
    """Of a block's MLP, or of each of its experts."""
    at, second = crosscoder.hookpoints.blocks[block].mlp_in, second_norm(model, block)
    if at is not None:
        return tuple(_input_view(mlp, crosscoder, block, at, second) for mlp in mlps)
    reads, norm = mlp_input(model, block), None if second is None else second.norm
    decoder = torch.stack([crosscoder.decoder_vectors(i) for i in upstream_of_it]).sum(0)
    built = (StreamView.build(mlp, reads.norm, decoder, norm) for mlp in mlps)
    return tuple(UpstreamView(block, view, upstream_of_it, reads.stream, second) for view in built)


def input_dictionaries(model: LanguageModel, crosscoder: Crosscoder) -> dict[int, MLPDictionary]:
    """By block: the dictionary at each MLP's input at which the crosscoder decodes.

    Output vectors are the MLP's own, also where a second norm follows it (`mlp_views` counts that).
    Raises CrossproofError where baselines are each token's own (`Crosscoder.is_affine`).
    """
    check_constant(crosscoder.layout.skips, crosscoder.token_scale, "the MLPs' inputs")
    with torch.no_grad():
        return {
            block: _input_view(model.mlp(block), crosscoder, block, at).dictionary
            for block, part in enumerate(crosscoder.hookpoints.blocks)
            if (at := part.mlp_in) is not None
        }


def _input_view(
    mlp: MLPWeights,
    crosscoder: Crosscoder,
    block: int,
    at: int,
    second: SecondNorm | None = None,
) -> InputView:
    decoder, bias = crosscoder.decoder_vectors(at), crosscoder.b_dec[at] / crosscoder.scale[at]
    names, scale = crosscoder.hookpoints.names, crosscoder.scale
    besides: list[tuple[str, Besides]] = [
        (names[read], partial(_skipped, crosscoder.W_skip[number] * (scale[read] / scale[at])))
        for number, (read, written) in enumerate(crosscoder.layout.skips)
        if written == at
    ]
    if crosscoder.token_scale.kind is not None:
        besides.append((names[at], partial(_rescaled, crosscoder.token_scale, bias)))
    dictionary = MLPDictionary.build(mlp, decoder, bias)
    dictionary = dictionary.with_second_norm(None if second is None else second.norm)
    return InputView(block, dictionary, at, tuple(besides), second)


def _skipped(weights: Tensor, x: Tensor) -> Tensor:
    return x.to(weights.dtype) @ weights


def _rescaled(token_scale: TokenScale, bias: Tensor, x: Tensor) -> Tensor:
    return token_scale.added(x.to(bias.dtype)[:, None], bias[None])[:, 0]


def with_mean_rest(
    views: Mapping[int, MLPView], batches: Iterable[EncodedBatch]
) -> dict[int, MLPView]:
    """The same with every token's rest replaced by its mean over the tokens of `batches`.

    Batches must hold what the views need. Views at MLP inputs, which have no rest, are kept.
    Raises CrossproofError if the batches hold no token.
    """
    in_stream = {b: view for b, view in views.items() if is_upstream(view)}
    sums: dict[int, Tensor] = {}
    tokens = 0
    for batch in batches:
        tokens += len(batch.x)
        for block, view in in_stream.items():
            rest = view.rest_of(batch).sum(0)
            sums[block] = sums[block] + rest if block in sums else rest
    if in_stream and not tokens:
        raise CrossproofError(
            "No position counts in the sequences over which the mean of the stream's rest is "
            "taken: all are special tokens, among the first of their rows, or beyond the limits of "
            "norms; give another text, or skip these sequences."
        )
    means = {b: view.with_rest(sums[b] / tokens) for b, view in in_stream.items()}
    return {**views, **means}


def described(view: MLPView, crosscoder: Crosscoder) -> str:
    """Where the crosscoder is read, in words for tables, pages and JSON."""
    names = crosscoder.hookpoints.names
    if isinstance(view, MixtureView):
        return f"{described(view.first, crosscoder)}, experts as the model's own run routes tokens"
    if isinstance(view, InputView):
        return f"MLP input {names[view.hookpoint]}"
    written = ", ".join(names[at] for at in view.hookpoints)
    if isinstance(view.view.norm, Unnormed):
        return f"residual stream {written}, which {view.stream} holds without a norm"
    return f"residual stream {written}, at the denominator of {view.stream}"


def needs_of(views: Mapping[int, MLPView]) -> tuple[str, ...]:
    """The hookpoints that a batch must hold besides the crosscoder's."""
    return tuple(dict.fromkeys(name for view in views.values() for name in view.needs))


def read_by(
    views: Mapping[int, MLPView], batch: EncodedBatch
) -> dict[int, TokenView | TokenMixture]:
    """What every MLP sees of a batch."""
    return {block: view.at(batch) for block, view in views.items()}


def seen_by(views: Mapping[int, MLPView], batch: EncodedBatch) -> dict[int, TokenView]:
    """The same of views without mixtures of experts."""
    return {b: seen for b, seen in read_by(views, batch).items() if isinstance(seen, TokenView)}


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
    lost = {
        block: at
        for block, written_before in reading.items()
        for at in written_before
        if rewritten_between(model, places[at], readers[block])
    }
    reading = {block: at for block, at in reading.items() if block not in lost}
    reading |= dict.fromkeys(inputs, ())
    if mlps == "next":
        chosen = next_blocks(places.values(), list(readers.values()))
    elif reading:
        chosen = tuple(sorted(reading if mlps == "all" else mlps))
    elif lost:
        chosen = tuple(lost)
    else:
        raise CrossproofError(
            f"No MLP of '{model.name}' reads what this dictionary writes "
            f"({', '.join(hookpoints.names[at] for at in named)}): interactions need a dictionary "
            f"of an MLP's input or of the stream before one."
        )
    wrong = [block for block in chosen if block not in reading]
    if wrong and wrong[0] in lost:
        raise CrossproofError(
            f"'{model.name}' scales or norms the stream itself between "
            f"{hookpoints.names[lost[wrong[0]]]} and the MLP of block {wrong[0]}, so that what was "
            f"written there is no summand of what it reads: choose blocks before that, or a "
            f"dictionary that writes behind it."
        )
    if wrong:
        raise CrossproofError(
            f"The MLP of block {wrong[0]} reads nothing of this dictionary; choose from blocks "
            f"{', '.join(map(str, sorted(reading)))}."
        )
    return {block: reading[block] for block in chosen}
