"""Sparse encode and decode under autograd: gradients touch active latents only.

After the encoder's forward product nothing is dense in the latents. With A the sparse [B, H]
matrix of activations, decoding is A W_dec; its gradients are A^T g (rows of the decoder) and
<g_b, W_dec,h> (one number an entry); the encoder's gradient has the same form with the input in
place of g. So three kernels suffice, and the dense backward products (two thirds of a dense
training step) are never formed.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossproof import kernels
from crossproof.crosscoder.latents import SparseLatents


def transposed_product(
    entries: SparseLatents, values: Float[Tensor, " nnz"], rows: Float[Tensor, "B F"]
) -> Float[Tensor, "H F"]:
    """A^T rows, where A is the [B, H] matrix of `entries` holding `values`."""
    offsets, tokens, order = entries.transposed
    return kernels.weighted_rows(offsets, tokens, values[order], rows)


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
            grad_rows = transposed_product(entries, values, grad)
        return grad_values, grad_rows, None


def sparse_product(latents: SparseLatents, rows: Float[Tensor, "H F"]) -> Float[Tensor, "B F"]:
    """Sum of `value * rows[latent]` over each token's active latents, differentiable in both."""
    out: Tensor = _SparseProduct.apply(latents.values.to(rows.dtype), rows, latents)
    return out


class _EncodeEntries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, pre: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, entries: SparseLatents
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.entries = entries
        return pre.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor, None]:
        (x,) = ctx.saved_tensors
        entries, grad = ctx.entries, grad.contiguous()
        grad_bias = grad.new_zeros(entries.n_latents).index_add_(0, entries.indices, grad)
        return None, None, transposed_product(entries, grad, x), grad_bias, None


def encode_entries(
    entries: SparseLatents,
    x: Float[Tensor, "B F"],
    W_enc: Float[Tensor, "H F"],
    b_enc: Float[Tensor, " H"],
) -> SparseLatents:
    """`entries` with their values made differentiable in the encoder's weights.

    `entries.values` must be the pre-activations <W_enc[h], x_b> + b_enc[h], which the caller has
    already computed without gradient to choose the entries. No gradient flows to `x`: a
    dictionary's inputs are data.
    """
    values: Tensor = _EncodeEntries.apply(entries.values, x, W_enc, b_enc, entries)
    return entries.with_values(values)


class _DecodeWithVectors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, W_dec: Tensor, where: Tensor, entries: SparseLatents
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(values, W_dec, where)
        ctx.entries = entries
        rows = W_dec.flatten(1)
        decoded = kernels.weighted_rows(entries.offsets, entries.indices, values, rows)
        return decoded, W_dec.index_select(1, where)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, grad_vectors: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, W_dec, where = ctx.saved_tensors
        entries, grad = ctx.entries, grad.contiguous()
        grad_values = kernels.row_products(entries.offsets, entries.indices, grad, W_dec.flatten(1))
        grad_rows = transposed_product(entries, values, grad).view_as(W_dec)
        return grad_values, grad_rows.index_add_(1, where, grad_vectors), None, None


def decode_with_vectors(
    latents: SparseLatents, W_dec: Float[Tensor, "H P D"], where: Int[Tensor, " M"]
) -> tuple[Float[Tensor, "B F"], Float[Tensor, "H M D"]]:
    """`sparse_product` with the decoder, and its vectors at the hookpoints `where`.

    One function, because autograd would otherwise fill and add a second gradient of the decoder's
    size for the few hookpoints that the penalties look at.
    """
    decoded, decoder = _DecodeWithVectors.apply(latents.values, W_dec, where, latents)
    return decoded, decoder
