"""Sparse encode and decode under autograd: gradients touch active latents only.

After the encoder's forward product nothing is dense in the latents. With A the sparse [B, H]
matrix of activations, decoding is A W_dec; its gradients are A^T g (rows of the decoder) and
<g_b, W_dec,h> (one number an entry); the encoder's gradient has the same form with the input in
place of g. So three kernels suffice, and the dense backward products (two thirds of a dense
training step) are never formed.

Latents may read and write hookpoints of their own: weights [H, R, D] hold a row for each of the
(at most R) places of a latent, and `spans` say which these are. A crosscoder has one span of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.layout import PlaceSpan

Spans = Sequence[PlaceSpan]


def at_places(x: Float[Tensor, "B P D"], span: PlaceSpan) -> Float[Tensor, "B F"]:
    """What a span's latents read of `x`, flattened; a view where that is everything."""
    if span.places == tuple(range(x.shape[1])):
        return x.flatten(1)
    return x[:, index_on(x.device, span.places)].flatten(1)


@lru_cache(maxsize=256)
def index_on(device: torch.device, places: tuple[int, ...]) -> Int[Tensor, " places"]:
    """Places as an index that is copied to the device once, not at every step."""
    with torch.inference_mode(False):  # autograd will keep it
        return torch.tensor(places, dtype=torch.int64, device=device)


def rows_of(weights: Float[Tensor, "H R D"], span: PlaceSpan) -> Float[Tensor, "S F"]:
    """A span's rows of the weights, flattened over its places."""
    return weights[span.rows, : len(span.places)].flatten(1)


def project(
    x: Float[Tensor, "B P D"], weights: Float[Tensor, "H R D"], spans: Spans
) -> Float[Tensor, "B H"]:
    """<W_h, x_b> of every token and latent."""
    return _side_by_side([at_places(x, span) @ rows_of(weights, span).T for span in spans])


def pre_activations(
    x: Float[Tensor, "B P D"],
    weights: Float[Tensor, "H R D"],
    bias: Float[Tensor, " H"],
    spans: Spans,
) -> Float[Tensor, "B H"]:
    """`project` with a bias."""
    return _side_by_side(
        [
            torch.addmm(bias[span.rows], at_places(x, span), rows_of(weights, span).T)
            for span in spans
        ]
    )


def transposed_product(
    entries: SparseLatents, values: Float[Tensor, " nnz"], x: Float[Tensor, "B P D"], spans: Spans
) -> Float[Tensor, "H R D"]:
    """A^T x at each latent's places, A being the [B, H] matrix of `entries` holding `values`."""
    offsets, tokens, order = entries.transposed
    values = values[order]
    if len(spans) == 1:
        flat = kernels.weighted_rows(offsets, tokens, values, at_places(x, spans[0]))
        return flat.view(entries.n_latents, -1, x.shape[2])
    wide = max(len(span.places) for span in spans)
    out = x.new_zeros(entries.n_latents, wide, x.shape[2])
    edges = torch.stack([offsets[at] for span in spans for at in (span.start, span.stop)])
    whole = [[0, len(values)]] * len(spans)  # at most, where there are no values to read
    limits = whole if edges.is_meta else edges.view(-1, 2).tolist()
    for span, (low, high) in zip(spans, limits, strict=True):
        bounds, inside = offsets[span.start : span.stop + 1] - low, slice(low, high)
        rows = kernels.weighted_rows(bounds, tokens[inside], values[inside], at_places(x, span))
        out[span.rows, : len(span.places)] = rows.unflatten(1, (-1, x.shape[2]))
    return out


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: Tensor, entries: SparseLatents) -> Tensor:
        ctx.save_for_backward(values, rows)
        ctx.entries = entries
        return kernels.weighted_rows(entries.offsets, entries.indices, values, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, rows = ctx.saved_tensors
        entries, grad = ctx.entries, grad.contiguous()
        grad_values = grad_rows = None
        if ctx.needs_input_grad[0]:
            grad_values = kernels.row_products(entries.offsets, entries.indices, grad, rows)
        if ctx.needs_input_grad[1]:
            offsets, tokens, order = entries.transposed
            grad_rows = kernels.weighted_rows(offsets, tokens, values[order], grad)
        return grad_values, grad_rows, None


def sparse_product(latents: SparseLatents, rows: Float[Tensor, "H F"]) -> Float[Tensor, "B F"]:
    """Sum of `value * rows[latent]` over each token's active latents, differentiable in both."""
    out: Tensor = _SparseProduct.apply(latents.values.to(rows.dtype), rows, latents)
    return out


class _EncodeEntries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, entries: SparseLatents,
        spans: Spans,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x)
        ctx.entries, ctx.spans = entries, spans
        return pre.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor, None, None]:
        (x,) = ctx.saved_tensors
        entries, grad = ctx.entries, grad.contiguous()
        grad_bias = grad.new_zeros(entries.n_latents).index_add_(0, entries.indices, grad)
        return None, None, transposed_product(entries, grad, x, ctx.spans), grad_bias, None, None


def encode_entries(
    entries: SparseLatents,
    x: Float[Tensor, "B P D"],
    W_enc: Float[Tensor, "H R D"],
    b_enc: Float[Tensor, " H"],
    spans: Spans,
) -> SparseLatents:
    """`entries` with their values made differentiable in the encoder's weights.

    `entries.values` must be the pre-activations <W_enc[h], x_b> + b_enc[h], which the caller has
    already computed without gradient to choose the entries. No gradient flows to `x`: a
    dictionary's inputs are data.
    """
    values: Tensor = _EncodeEntries.apply(entries.values, x, W_enc, b_enc, entries, spans)
    return entries.with_values(values)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, entries: SparseLatents, spans: Spans,
        n_places: int, where: tuple[int, ...],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        ctx.save_for_backward(values, W_dec)
        ctx.entries, ctx.spans, ctx.where = entries, spans, where
        decoded = _decoded(entries, values, W_dec, spans, n_places)
        vectors = W_dec.new_zeros(len(W_dec), len(where), W_dec.shape[2])
        for span, slot, at in _slots(spans, where):
            vectors[span.rows, at] = W_dec[span.rows, slot]
        return decoded, vectors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_vectors: Tensor) -> tuple[Tensor | None, ...]:
        values, W_dec = ctx.saved_tensors
        entries, spans, grad = ctx.entries, ctx.spans, grad.contiguous()
        grad_values = None
        if ctx.needs_input_grad[0]:
            grad_values = values.new_zeros(len(values))
            for span in spans:
                own, at = of_span(entries, span)
                left, right = at_places(grad, span), rows_of(W_dec, span)
                grad_values[at] = kernels.row_products(own.offsets, own.indices, left, right)
        grad_rows = transposed_product(entries, values, grad, spans)
        for span, slot, column in _slots(spans, ctx.where):
            grad_rows[span.rows, slot] += grad_vectors[span.rows, column]
        return grad_values, grad_rows, None, None, None, None


def decode_with_vectors(
    latents: SparseLatents,
    W_dec: Float[Tensor, "H R D"],
    spans: Spans,
    n_places: int,
    where: Sequence[int] = (),
) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "H M D"]]:
    """What the latents write at each of `n_places` hookpoints, and decoder vectors at `where`.

    One function, because autograd would otherwise fill and add a second gradient of the decoder's
    size for the few hookpoints that the penalties look at. A latent that does not write a
    hookpoint has the vector zero there.
    """
    decoded, decoder = _Decode.apply(
        latents.values.to(W_dec.dtype), W_dec, latents, tuple(spans), n_places, tuple(where)
    )
    return decoded, decoder


def _decoded(
    entries: SparseLatents, values: Tensor, W_dec: Tensor, spans: Spans, n_places: int
) -> Float[Tensor, "B P D"]:
    shape = entries.n_tokens, n_places, W_dec.shape[2]
    whole = tuple(range(n_places))
    out = None if [span.places for span in spans] == [whole] else values.new_zeros(shape)
    for span in spans:
        own, at = of_span(entries, span)
        part = kernels.weighted_rows(own.offsets, own.indices, values[at], rows_of(W_dec, span))
        if out is None:
            return part.view(shape)
        out[:, index_on(out.device, span.places)] += part.unflatten(1, (-1, shape[2]))
    assert out is not None  # a dictionary has a span
    return out


def of_span(
    entries: SparseLatents, span: PlaceSpan
) -> tuple[SparseLatents, slice | Int[Tensor, " part"]]:
    """A span's entries, numbered from its first latent, and where they stand among all."""
    if (span.start, span.stop) == (0, entries.n_latents):
        return entries, slice(None)
    if entries.indices.is_meta:  # how many are the span's is in the values: all at most
        return replace(entries, n_latents=span.stop - span.start), slice(None)
    inside = (entries.indices >= span.start) & (entries.indices < span.stop)
    own = entries.keep(inside)
    count = span.stop - span.start
    return SparseLatents(
        own.offsets, own.indices - span.start, own.values, count
    ), inside.nonzero()[:, 0]


def _slots(spans: Spans, where: Sequence[int]) -> Iterator[tuple[PlaceSpan, int, int]]:
    """(span, place of the hookpoint among the span's, place among `where`) of those written."""
    for at, hookpoint in enumerate(where):
        for span in spans:
            if hookpoint in span.places:
                yield span, span.places.index(hookpoint), at


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
