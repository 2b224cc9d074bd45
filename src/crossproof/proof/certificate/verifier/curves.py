"""Univariate curves of latents, f_h(a) = Σ_n o_n (σ(β_n + a g_nh) - σ(β_n)) + a (d_h skip).

A curve is piecewise linear with a kink wherever the latent switches a neuron, so its minimum over
an interval is at an end or at a kink (THEORY T5). Kinks are tabulated once a latent and searched
by dyadic range minima; ends are shared by all boxes that have them. A kink that rounding puts in
the wrong place is charged: between two nodes, a hinge is nowhere further from its chord than its
own value at the nearer node.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import (
    Arithmetic,
    Array,
    Indices,
    Rounded,
    join,
)
from crossproof.proof.certificate.verifier.checks import NetworkWeights


@dataclass(frozen=True, eq=False)
class Latents:
    """The dictionary, and what its latents are in each active set: any numbers are sound."""

    decoder: Array
    """[H, D]."""
    bias: Array
    """[D]."""
    index: Indices
    """[G, M]: the latents of a set."""
    slopes: Array
    """[G, K, M]: latent = offset + Σ_j activation_j slopes_j."""
    offset: Array
    """[G, M]."""


class Curves:
    """The curves of a dictionary's latents, between the ends that the domain gives them."""

    def __init__(
        self,
        arithmetic: Arithmetic,
        weights: NetworkWeights,
        latents: Latents,
        ends: tuple[Array, Array],
    ) -> None:
        """`ends` [H] each: no latent leaves them."""
        self.arithmetic = count = arithmetic
        self.W_out = count.exact(weights.W_out)
        W_in, skip = count.exact(weights.W_in), count.exact(weights.skip)
        decoder, bias = count.exact(latents.decoder), count.exact(latents.bias)
        self.G = count.product(decoder, W_in)
        self.skip = count.product(decoder, skip)
        self.base = count.add(count.product(bias, W_in), count.exact(weights.b_in))
        self.resting = count.relu(self.base)
        self.constant = count.add(count.product(bias, skip), count.exact(weights.b_out))
        self.nodes, self.charge = self._kinks(*ends)
        latent = np.repeat(np.arange(len(self.nodes)), self.nodes.shape[1])
        flat = self.at(latent, self.nodes.ravel())
        shape = (*self.nodes.shape, len(flat.size))
        self.node_values = Rounded(flat.value.reshape(shape), flat.size, flat.error)

    def _kinks(self, low: Array, high: Array) -> tuple[Array, Rounded]:
        """Nodes [H, N], ascending, and by how much a neuron may miss its node [H, N]."""
        with np.errstate(all="ignore"):
            kink = np.nan_to_num(-self.base.value / self.G.value)
        kink = np.clip(kink, low[:, None], high[:, None])
        count = self.arithmetic
        off_node = count.absolute(self._pre_activation(kink))
        ends = (np.broadcast_to(end[:, None], kink.shape) for end in (low, high))
        least, most = map(self._pre_activation, ends)
        on = (least.low >= 0) & (most.low >= 0)
        off = (least.high <= 0) & (most.high <= 0)
        missed = np.where(on | off, 0.0, off_node.high)
        count.operations += 6 * missed.size
        return np.sort(kink, axis=1), count.exact(missed)

    def _pre_activation(self, at: Array) -> Rounded:
        count = self.arithmetic
        return count.add(count.times(count.exact(at), self.G), self.base)

    def at(self, latent: Indices, value: Array) -> Rounded:
        """The curves' values, [.., V], for latents and their activations, both [M]."""
        count, parts = self.arithmetic, []
        for start in range(0, len(value), 4096):
            part = slice(start, start + 4096)
            activation = count.exact(value[part, None])
            directions = count.times(self.G[latent[part]], activation)
            moved = count.relu(count.add(directions, self.base))
            change = count.subtract(moved, self.resting)
            straight = count.times(self.skip[latent[part]], activation)
            parts.append(count.add(straight, count.product(change, self.W_out)))
        return join(parts, axis=0)

    def smallest(self, latent: Indices, low: Array, high: Array, label: int) -> Rounded:
        """min over [low, high] of the curve's margin, summed over latents; [B, M] to [B, V]."""
        count = self.arithmetic
        both = np.stack([latent, latent]).ravel()
        key = np.stack([both.astype(np.float64), np.stack([low, high]).ravel()])
        unique, where = np.unique(key, axis=1, return_inverse=True)
        ends = self._margins(self.at(unique[0].astype(np.int64), unique[1]), label)
        at_ends = [ends[side] for side in where.reshape(2, *latent.shape)]
        least = count.minimum(*at_ends)
        inside = self._inside(latent, low, high, label)
        return count.total(count.minimum(least, inside), axis=1)

    def missed(self, latent: Indices, distance: Rounded) -> Rounded:
        """What nodes off their kinks may cost, [B, V], for |o_y - o_c| = `distance` [N, V]."""
        count = self.arithmetic
        return count.total(count.product(self.charge, distance)[latent], axis=1)

    def _margins(self, values: Rounded, label: int) -> Rounded:
        return self.arithmetic.subtract(values.columns(slice(label, label + 1)), values)

    def _inside(self, latent: Indices, low: Array, high: Array, label: int) -> Rounded:
        """The least margin at nodes strictly inside; +infinity where there is none."""
        count = self.arithmetic
        margins = self._margins(self.node_values, label)
        levels = [margins.value]
        while 2 ** len(levels) <= self.nodes.shape[1]:
            last, step = levels[-1], 2 ** (len(levels) - 1)
            levels.append(np.minimum(last, np.roll(last, -step, axis=1)))
            count.operations += last.size
        table = np.stack(levels)
        first, stop = np.zeros(latent.shape, np.int64), np.zeros(latent.shape, np.int64)
        for h in np.unique(latent):
            here = latent == h
            first[here] = np.searchsorted(self.nodes[h], low[here], side="right")
            stop[here] = np.searchsorted(self.nodes[h], high[here], side="left")
        inside, length = stop > first, np.maximum(stop - first, 1)
        level = np.log2(length).astype(np.int64)
        first = np.minimum(first, self.nodes.shape[1] - 1)
        least = np.minimum(table[level, latent, first], table[level, latent, stop - 2**level])
        count.operations += least.size
        value = np.where(inside[..., None], least, np.inf)
        return Rounded(value, margins.size, margins.error)
