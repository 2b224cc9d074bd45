"""Sparse products and the dominant latent: the few loops that crossproof's speed rests on.

Tokens hold their active latents as CSR entries: token b owns entries `offsets[b]:offsets[b+1]`,
entry j is latent `indices[j]` with activation `values[j]`. Offsets are B + 1 numbers ("bounds" in
annotations: "B+1" could not be checked before an argument that fixes B). None of these functions is
differentiable: `crossproof.crosscoder.autograd` and `crossproof.interactions.contributions` put
them behind autograd. In float32 or float64 numba's loops run on CPUs and Triton's programs on
NVIDIA's GPUs, where these are installed; everywhere else, and for everyone who sets
`CROSSPROOF_KERNELS=torch`, the plain PyTorch path does; all give the same numbers up to rounding.
Tensors of the `meta` device get results of the right shapes from there, as everywhere in PyTorch.
On CPUs `weighted_rows` is PyTorch's `embedding_bag`, as fast as a loop of our own there, and a
search for entries on a GPU is PyTorch's everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from crossproof.kernels import torch_any

try:
    import numba

    from crossproof.kernels import numba_cpu

    HAVE_NUMBA = True
except ImportError:  # numba lags behind new Python versions
    HAVE_NUMBA = False

__all__ = (
    "dominant",
    "dominant_backward",
    "dominant_of_both",
    "entries_above",
    "pair_table",
    "plain_pairs",
    "row_products",
    "sums_by_sign",
    "uses_numba",
    "uses_triton",
    "weighted_rows",
)

BACKWARD_PARTS = 4
"""Neuron ranges of `dominant_backward`: fixed, so that sums do not depend on the thread count."""


ByLatent = tuple[Int[Tensor, " latents"], Int[Tensor, " nnz"], Int[Tensor, " nnz"]]
"""`SparseLatents.transposed`: offsets [H+1], tokens, and which entries they are."""


def uses_numba(tensor: Tensor) -> bool:
    """Whether kernels on tensors like this one run as numba loops."""
    on_cpu = tensor.device.type == "cpu"
    return HAVE_NUMBA and on_cpu and _compiles(tensor) and _asked("numba") == "numba"


def uses_triton(tensor: Tensor) -> bool:
    """Whether kernels on tensors like this one run as Triton programs.

    On a CPU only where CROSSPROOF_KERNELS=triton asks for it, in Triton's interpreter.
    """
    return (
        tensor.device.type in ("cuda", "cpu")
        and _asked("triton" if tensor.is_cuda else "numba") == "triton"
        and _compiles(tensor)
        and _triton() is not None
    )


def _asked(otherwise: str) -> str:
    return os.environ.get("CROSSPROOF_KERNELS", otherwise)


def _compiles(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float32, torch.float64)


@cache
def _triton() -> Any:
    """The module of Triton's programs, imported when one is first wanted; None without Triton."""
    try:
        return import_module("crossproof.kernels.triton_gpu")
    except ImportError:
        return None


def _run(loop: Any, inputs: tuple[Tensor, ...], *outputs: Tensor) -> None:
    """Runs one of numba's loops on PyTorch's number of threads; it writes into the outputs."""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    if torch.get_num_threads() != threads:
        # The first call starts numba's OpenMP pool, which sets the count that PyTorch uses too.
        torch.set_num_threads(threads)
    arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
    numba_cpu.run(loop, [*arrays, *(tensor.numpy() for tensor in outputs)])


def entries_above(
    pre: Float[Tensor, "B H"], thresholds: Float[Tensor, " H"]
) -> tuple[Int[Tensor, "B+1"], Int[Tensor, " nnz"], Float[Tensor, " nnz"]]:
    """CSR offsets, indices and values of the entries of `pre` above their latent's threshold."""
    if not uses_numba(pre):
        return torch_any.entries_above(pre, thresholds)
    counts = torch.empty(len(pre), dtype=torch.int64)
    _run(numba_cpu.count_above, (pre, thresholds), counts)
    offsets = pad(counts.cumsum(0), (1, 0))
    indices = torch.empty(int(offsets[-1]), dtype=torch.int64)
    values = pre.new_empty(len(indices))
    _run(numba_cpu.fill_above, (pre, thresholds, offsets), indices, values)
    return offsets, indices, values


def weighted_rows(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    rows: Float[Tensor, "R F"],
) -> Float[Tensor, "B F"]:
    """Sum of `values[j] * rows[indices[j]]` over the entries j of each token."""
    if uses_triton(rows):
        sums: Tensor = _triton().weighted_rows(offsets, indices, values, rows)
        return sums
    return torch_any.weighted_rows(offsets, indices, values, rows)


def row_products(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    left: Float[Tensor, "B F"],
    right: Float[Tensor, "R F"],
) -> Float[Tensor, " nnz"]:
    """The inner product of `left[b]` and `right[indices[j]]` for every entry j of token b."""
    if uses_triton(left):
        products: Tensor = _triton().row_products(offsets, indices, left, right)
        return products
    if not uses_numba(left):
        return torch_any.row_products(offsets, indices, left, right)
    out = left.new_empty(len(indices))
    _run(numba_cpu.row_products, (offsets, indices, left, right), out)
    return out


def dominant(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    excluded: Int[Tensor, "B N"] | None = None,
) -> tuple[Float[Tensor, "B N"], Int[Tensor, "B N"]]:
    """The contribution `values[j] * weights[indices[j], n]` of largest magnitude at each (b, n).

    Returns the signed contribution (0 where no latent contributes) and the int32 entry j that
    owns the neuron (-1 where none does). The first entry wins ties. `excluded` takes one entry at
    each (b, n) out of the race: with the owners, the result is the second largest.
    """
    entries = offsets, indices, values, weights
    if uses_triton(weights):
        found: tuple[Tensor, Tensor] = _triton().dominant(*entries, excluded)
        return found
    if not uses_numba(weights):
        return torch_any.dominant(*entries, excluded)
    best = weights.new_empty(len(offsets) - 1, weights.shape[1])
    owner = torch.empty(best.shape, dtype=torch.int32)
    if excluded is None:
        _run(numba_cpu.dominant, entries, best, owner)
    else:
        _run(numba_cpu.runner_up, (*entries, excluded), best, owner)
    return best, owner


def sums_by_sign(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """Sums of the negative and of the positive `values[j] * weights[indices[j], n]` at each (b, n).

    Without a copy of the weights, which may be far more than the rows of a batch.
    """
    if not uses_numba(weights):
        return torch_any.sums_by_sign(offsets, indices, values, weights)
    negative = weights.new_zeros(len(offsets) - 1, weights.shape[1])
    positive = torch.zeros_like(negative)
    inputs = offsets, indices, values, weights
    _run(numba_cpu.sums_by_sign, inputs, negative, positive)
    return negative, positive


def dominant_of_both(
    offsets: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    beside: Float[Tensor, "H N"],
) -> Int[Tensor, "B N"]:
    """The entry whose `values[j]` times |weights| + |beside| is largest in magnitude; else -1.

    Triton's program adds the two up on the fly: the sum is as large as a virtual weight matrix.
    """
    if uses_triton(weights):
        owner: Tensor = _triton().dominant(offsets, indices, values, weights, None, beside)[1]
        return owner
    return dominant(offsets, indices, values, weights.abs() + beside.abs())[1]


def dominant_backward(
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    owner: Int[Tensor, "B N"],
    grad: Float[Tensor, "B N"],
    by_latent: Callable[[], ByLatent],
    onto: Float[Tensor, "H N"] | None = None,
) -> tuple[Float[Tensor, " nnz"], Float[Tensor, "H N"]]:
    """Gradients of the owners' values and weights, given the gradient at each (token, neuron).

    The weights' gradient is added to `onto`, in place, if that is given. `by_latent` gives the
    entries by latent, for the path that walks them so.
    """
    if uses_triton(weights):
        onto = torch.zeros_like(weights) if onto is None else onto
        gradients = by_latent(), values, weights, owner, grad
        of_values: Tensor = _triton().dominant_backward(*gradients, onto)
        return of_values, onto
    if not uses_numba(weights):
        grad_values, grad_weights = torch_any.dominant_backward(
            indices, values, weights, owner, grad
        )
        return grad_values, grad_weights if onto is None else onto.add_(grad_weights)
    grad_values = values.new_zeros(BACKWARD_PARTS, len(values))
    grad_weights = torch.zeros_like(weights) if onto is None else onto
    inputs = indices, values, weights, owner, grad
    _run(numba_cpu.dominant_backward, inputs, grad_values, grad_weights)
    return grad_values.sum(0), grad_weights


def plain_pairs(
    offsets: Int[Tensor, " bounds"],
    starts: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    values: Float[Tensor, " nnz"],
    weights: Float[Tensor, "H N"],
    owner: Int[Tensor, "B N"],
    norms: Float[Tensor, " N"],
    swings: Float[Tensor, "B N"],
    out: Float[Tensor, "pairs 5"],
) -> None:
    """Writes five sums over neurons of every pair h < k of active latents of every token.

    With p the contributions, w the `norms` and s the `swings`: w|p_k| and ws|p_k| over the neurons
    that h owns, each beside the same with h and k exchanged, and ws·min(|p_h|, |p_k|) over all, in
    the columns (w h→k, w k→h, ws h→k, ws k→h, min) of `out` (float64). Token b's pairs stand from
    `starts[b]` on, in the order (0,1), (0,2), ... (1,2), ... of its entries.
    """
    arguments = offsets, starts, indices, values, weights, owner, norms, swings
    if uses_triton(weights):
        _triton().plain_pairs(*arguments, out)
        return None
    if not uses_numba(weights):
        return torch_any.plain_pairs(*arguments, out)
    return _run(numba_cpu.plain_pairs, arguments, out)


def pair_table(
    offsets: Int[Tensor, " bounds"],
    starts: Int[Tensor, " bounds"],
    indices: Int[Tensor, " nnz"],
    sums: Float[Tensor, "pairs C"],
    n_latents: int,
) -> tuple[Int[Tensor, "M 2"], Int[Tensor, " M"], Float[Tensor, "M C"]]:
    """Adds up tokens' pairs that are pairs of the same latents.

    Rows of `sums` stand as in `plain_pairs`; a token's `indices` ascend. Returns the pairs (h, k),
    h < k, in ascending order, the number of tokens of each, and the summed rows.
    """
    if not uses_numba(sums):
        return torch_any.pair_table(offsets, indices, sums, n_latents)
    order = torch.argsort(indices, stable=True)
    tokens = torch.repeat_interleave(offsets.diff())[order]
    by_latent = pad(torch.bincount(indices, minlength=n_latents).cumsum(0), (1, 0))
    counts = torch.zeros(n_latents, dtype=torch.int64)
    _run(numba_cpu.count_partners, (offsets, indices, by_latent, tokens, order), counts)
    firsts = pad(counts.cumsum(0), (1, 0))
    partners = torch.empty(int(firsts[-1]), dtype=torch.int64)
    together = torch.zeros(len(partners), dtype=torch.int64)
    table = sums.new_zeros(len(partners), sums.shape[1])
    inputs = offsets, starts, indices, by_latent, tokens, order, sums, firsts
    _run(numba_cpu.add_pairs, inputs, partners, together, table)
    return torch.stack([torch.repeat_interleave(counts), partners], 1), together, table
