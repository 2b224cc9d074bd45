"""The kernels as loops for CPUs, compiled by numba.

Functions carry no annotations because numba compiles what it is given; `crossproof.kernels`
states shapes and types, and `crossproof.kernels.torch_any` computes the same numbers anywhere.
Parallel loops run over disjoint outputs in a fixed order, so results do not depend on scheduling.
"""

from __future__ import annotations

import inspect

import numba
import numpy as np

FLAGS = {"parallel": True, "cache": True, "nogil": True, "fastmath": {"contract", "nsz"}}
REDUCTION_FLAGS = {**FLAGS, "fastmath": {"contract", "nsz", "reassoc"}}

TILE = 512  # neurons a thread holds in its first-level cache while it walks a token's latents


def _compiled(flags):
    # Type-checking import hooks wrap every function of a package; numba needs the bare one.
    return lambda loop: numba.njit(**flags)(inspect.unwrap(loop))


@_compiled(FLAGS)
def count_above(pre, thresholds, counts):
    """counts[b] = how many pre[b, h] exceed thresholds[h]."""
    for b in numba.prange(pre.shape[0]):
        row = pre[b]
        total = np.int32(0)
        for h in range(pre.shape[1]):
            total += np.int32(row[h] > thresholds[h])
        counts[b] = total


@_compiled(FLAGS)
def fill_above(pre, thresholds, offsets, indices, values):
    """The latents that `count_above` counted, in ascending order, from offsets[b] on."""
    for b in numba.prange(pre.shape[0]):
        row = pre[b]
        j = offsets[b]
        for h in range(pre.shape[1]):
            if row[h] > thresholds[h]:
                indices[j] = h
                values[j] = row[h]
                j += 1


@_compiled(REDUCTION_FLAGS)
def row_products(offsets, indices, left, right, out):
    """out[j] = <left[b], right[indices[j]]> for the token b that holds entry j."""
    width = left.shape[1]
    for b in numba.prange(left.shape[0]):
        a = left[b]
        for j in range(offsets[b], offsets[b + 1]):
            row = right[indices[j]]
            total = out.dtype.type(0)
            for f in range(width):
                total += a[f] * row[f]
            out[j] = total


@_compiled(FLAGS)
def dominant(offsets, indices, values, weights, best, owner):
    """best[b, n] = the values[j] * weights[indices[j], n] of largest magnitude; owner = its j."""
    tokens, width = best.shape
    tiles = (width + TILE - 1) // TILE
    for b in numba.prange(tokens):
        for t in range(tiles):
            low = t * TILE
            high = min(low + TILE, width)
            champion = best[b, low:high]
            holder = owner[b, low:high]
            champion[:] = 0
            holder[:] = -1
            for j in range(offsets[b], offsets[b + 1]):
                row = weights[indices[j], low:high]
                value = values[j]
                for n in range(high - low):
                    p = value * row[n]
                    wins = abs(p) > abs(champion[n])
                    champion[n] = p if wins else champion[n]
                    holder[n] = np.int32(j) if wins else holder[n]


@_compiled(FLAGS)
def runner_up(offsets, indices, values, weights, owner, best, second):
    """As `dominant`, among the entries that are not `owner`'s."""
    for b in numba.prange(best.shape[0]):
        champion = best[b]
        holder = second[b]
        champion[:] = 0
        holder[:] = -1
        for j in range(offsets[b], offsets[b + 1]):
            row = weights[indices[j]]
            value = values[j]
            for n in range(best.shape[1]):
                p = value * row[n]
                wins = (abs(p) > abs(champion[n])) & (owner[b, n] != np.int32(j))
                champion[n] = p if wins else champion[n]
                holder[n] = np.int32(j) if wins else holder[n]


@_compiled(FLAGS)
def dominant_backward(indices, values, weights, owner, grad, grad_values, grad_weights):
    """Scatters grad[b, n] to the owner's value and weight.

    Threads own disjoint neurons: `grad_weights` has no races, and `grad_values` has one row a
    thread block, summed by the caller in a fixed order.
    """
    tokens, width = grad.shape
    parts = grad_values.shape[0]
    for part in numba.prange(parts):
        low = width * part // parts
        high = width * (part + 1) // parts
        mine = grad_values[part]
        for b in range(tokens):
            for n in range(low, high):
                j = owner[b, n]
                if j >= 0:
                    g = grad[b, n]
                    h = indices[j]
                    mine[j] += g * weights[h, n]
                    grad_weights[h, n] += g * values[j]


@_compiled(REDUCTION_FLAGS)
def plain_pairs(offsets, starts, indices, values, weights, owner, norms, swings, out):
    """out[place of (h, k)] = the five sums of a pair; see `crossproof.kernels.plain_pairs`."""
    width = weights.shape[1]
    for b in numba.prange(len(offsets) - 1):
        first = offsets[b]
        active = offsets[b + 1] - first
        if active < 2:
            continue
        sizes = np.empty((active, width), weights.dtype)
        charge = np.empty(width, np.float64)
        charged = np.zeros((active, active))
        additive = np.zeros((active, active))
        for n in range(width):
            charge[n] = norms[n] * swings[b, n]
        for j in range(active):
            row = weights[indices[first + j]]
            size = sizes[j]
            value = values[first + j]
            for n in range(width):
                size[n] = abs(value * row[n])
            for n in range(width):
                i = owner[b, n] - first
                if i >= 0:
                    charged[i, j] += norms[n] * size[n]
                    additive[i, j] += charge[n] * size[n]
        place = starts[b]
        for h in range(active):
            for k in range(h + 1, active):
                left = sizes[h]
                right = sizes[k]
                smaller = 0.0
                for n in range(width):
                    smaller += charge[n] * (left[n] if left[n] < right[n] else right[n])
                out[place, 0] = charged[h, k]
                out[place, 1] = charged[k, h]
                out[place, 2] = additive[h, k]
                out[place, 3] = additive[k, h]
                out[place, 4] = smaller
                place += 1
