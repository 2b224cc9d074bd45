"""The kernels as loops for CPUs, compiled by numba.

Functions carry no annotations because numba compiles what it is given; `crossproof.kernels`
states shapes and types, and `crossproof.kernels.torch_any` computes the same numbers anywhere.
Parallel loops run over disjoint outputs in a fixed order, so results do not depend on scheduling.
"""

from __future__ import annotations

import functools
import inspect
import pickle

import numba
import numpy as np

FLAGS = {"parallel": True, "cache": True, "nogil": True, "fastmath": {"contract", "nsz"}}
REDUCTION_FLAGS = {**FLAGS, "fastmath": {"contract", "nsz", "reassoc"}}

TILE = 512  # neurons a thread holds in its first-level cache while it walks a token's latents
PAIR_TILE = 256  # the same where it holds the contributions of all of a token's latents
PAD = 16  # keeps their rows off the same cache sets
PARTS = 64  # ranges of latents that threads share out among them


def _compiled(flags):
    """Compiles a loop, and keeps the code for the next process where there is a place for it.

    numba keeps it beside the module or in the user's cache folder, and raises RuntimeError where
    it can write neither: then every process compiles anew.
    """

    def compiled(loop):
        # Type-checking import hooks wrap every function of a package; numba needs the bare one.
        bare = inspect.unwrap(loop)
        try:
            return numba.njit(**flags)(bare)
        except RuntimeError:
            return numba.njit(**{**flags, "cache": False})(bare)

    return compiled


def run(loop, arrays):
    """Runs a compiled loop, without its cache where that turns out to be damaged or full.

    numba reads and writes the cache before a loop's first run: nothing has been computed yet.
    """
    try:
        loop(*arrays)
    except (OSError, EOFError, ValueError, LookupError, AttributeError, pickle.PickleError):
        uncached(loop)(*arrays)


@functools.cache
def uncached(loop):
    """The loop compiled again, beside its cache."""
    return numba.jit(**loop.targetoptions)(loop.py_func)


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
def sums_by_sign(offsets, indices, values, weights, negative, positive):
    """Sums over j of the negative and of the positive values[j] * weights[indices[j], n]."""
    for b in numba.prange(len(negative)):
        down, up = negative[b], positive[b]
        for j in range(offsets[b], offsets[b + 1]):
            row, value = weights[indices[j]], values[j]
            for n in range(len(row)):
                p = value * row[n]
                up[n] += p if p > 0 else row.dtype.type(0)
                down[n] += p if p < 0 else row.dtype.type(0)


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


@_compiled({**FLAGS, "parallel": False, "cache": False})  # it is a part of the next
def _write_pairs(active, charged, smaller, out):
    """The five sums of one token's pairs, from what `plain_pairs` gathered."""
    row = 0
    for h in range(active):
        for k in range(h + 1, active):
            forward, backward = 2 * (h * active + k), 2 * (k * active + h)
            out[row, 0] = charged[forward]
            out[row, 1] = charged[backward]
            out[row, 2] = charged[forward + 1]
            out[row, 3] = charged[backward + 1]
            out[row, 4] = smaller[h * active + k]
            row += 1


@_compiled(REDUCTION_FLAGS)
def plain_pairs(offsets, starts, indices, values, weights, owner, norms, swings, out):
    """out[row of (h, k)] = the five sums of a pair; see `crossproof.kernels.plain_pairs`.

    Contributions of a tile of neurons stay in the first-level cache. What is charged to an owner
    walks neurons and, inside, latents: successive additions go to different places and do not wait
    for each other. The smaller of two contributions is summed in the weights' own precision within
    a tile only.
    """
    width = weights.shape[1]
    stride = min(PAIR_TILE, width) + PAD
    zero = weights.dtype.type(0)
    for b in numba.prange(len(offsets) - 1):
        first = offsets[b]
        active = offsets[b + 1] - first
        if active < 2:
            continue
        sizes = np.empty(active * stride, weights.dtype)
        charge = np.empty(width, weights.dtype)
        charged = np.zeros(2 * active * active)  # for owner and latent: w|p|, then ws|p|
        smaller = np.zeros(active * active)
        for n in range(width):
            charge[n] = norms[n] * swings[b, n]
        for low in range(0, width, PAIR_TILE):
            count = min(PAIR_TILE, width - low)
            for j in range(active):
                row = weights[indices[first + j], low : low + count]
                size = sizes[j * stride : j * stride + count]
                value = values[first + j]
                for n in range(count):
                    size[n] = abs(value * row[n])
            for n in range(count):
                i = owner[b, low + n] - first
                if i < 0:
                    continue
                plain = np.float64(norms[low + n])
                swung = np.float64(charge[low + n])
                pair = np.uint64(2 * i * active)  # unsigned: no wrapping around to check
                at = np.uint64(n)
                for _ in range(active):
                    size_of = np.float64(sizes[at])
                    charged[pair] += plain * size_of
                    charged[pair + np.uint64(1)] += swung * size_of
                    pair += np.uint64(2)
                    at += np.uint64(stride)
            scale = charge[low : low + count]
            for j in range(active):
                size = sizes[j * stride : j * stride + count]
                for n in range(count):
                    size[n] *= scale[n]
            for h in range(active):
                for k in range(h + 1, active):
                    left, right = np.uint64(h * stride), np.uint64(k * stride)
                    total = zero
                    for n in range(np.uint64(count)):
                        one, other = sizes[left + n], sizes[right + n]
                        total += one if one < other else other
                    smaller[h * active + k] += total
        _write_pairs(active, charged, smaller, out[starts[b] :])


@_compiled(FLAGS)
def count_partners(offsets, indices, by_latent, tokens, order, counts):
    """counts[h] = how many latents k > h are ever active together with h."""
    latents = len(counts)
    parts = min(PARTS, latents)
    for part in numba.prange(parts):
        seen = np.full(latents, -1, np.int64)
        for h in range(latents * part // parts, latents * (part + 1) // parts):
            for at in range(by_latent[h], by_latent[h + 1]):
                for entry in range(order[at] + 1, offsets[tokens[at] + 1]):
                    k = indices[entry]
                    counts[h] += seen[k] != h
                    seen[k] = h


@_compiled(FLAGS)
def add_pairs(
    offsets, starts, indices, by_latent, tokens, order, sums, firsts, partners, together, table
):
    """Adds up the pairs of all tokens; see `crossproof.kernels.pair_table`.

    Partners of h stand from firsts[h] on, in ascending order. Tokens are added in their order.
    """
    latents, columns = len(firsts) - 1, sums.shape[1]
    parts = min(PARTS, latents)
    for part in numba.prange(parts):
        slot = np.full(latents, -1, np.int64)
        for h in range(latents * part // parts, latents * (part + 1) // parts):
            start, end = firsts[h], firsts[h]
            for at in range(by_latent[h], by_latent[h + 1]):
                for entry in range(order[at] + 1, offsets[tokens[at] + 1]):
                    k = indices[entry]
                    if slot[k] < start:
                        slot[k] = start
                        partners[end] = k
                        end += 1
            partners[start:end].sort()
            for partner in range(start, end):
                slot[partners[partner]] = partner
            for at in range(by_latent[h], by_latent[h + 1]):
                b = tokens[at]
                inside, active = order[at] - offsets[b], offsets[b + 1] - offsets[b]
                row = starts[b] + inside * (2 * active - inside - 1) // 2
                for entry in range(order[at] + 1, offsets[b + 1]):
                    partner = slot[indices[entry]]
                    together[partner] += 1
                    for c in range(columns):
                        table[partner, c] += sums[row, c]
                    row += 1
