"""A finite list of inputs, with the latents that a dictionary is said to have at each.

Every margin is bounded twice, by the dominant-latent model (THEORY T1) and by the additive model
(T2.2 with the signs of a convex σ), in functional margin form; the better bound counts. Latents,
decoder and bias may be any numbers: the verifier computes what they leave of the input. Reading all
inputs costs as much as running the network on them: such a certificate attributes errors and
compares dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.format import Certificate, CertificateError, Limits
from crossproof.proof.certificate.verifier.arithmetic import (
    Arithmetic,
    Array,
    Indices,
    Rounded,
    log_sum,
)
from crossproof.proof.certificate.verifier.checks import NetworkWeights, within

CHUNK = 1_000_000
"""Numbers of the points that are taken together."""


@dataclass(frozen=True, eq=False)
class PointsProblem:
    """Everything of a `points` certificate, checked."""

    weights: NetworkWeights
    inputs: Array
    labels: Indices
    decoder: Array
    bias: Array
    offsets: Indices
    indices: Indices
    values: Array

    @property
    def widest(self) -> int:
        """K, the most latents of a point."""
        return int(np.diff(self.offsets).max())

    @property
    def chunk(self) -> int:
        """How many points are taken together."""
        (inputs, width), classes = self.weights.W_in.shape, self.weights.W_out.shape[1]
        numbers = int(self.widest * width + width + inputs + classes)
        return max(CHUNK // numbers, 1)


def read(certificate: Certificate, limits: Limits) -> PointsProblem:
    """Checks index ranges and what the certificate asks for."""
    sizes, proof = certificate.sizes, certificate.part("proof")
    domain, dictionary = certificate.part("domain"), certificate.part("dictionary")
    within("domain.labels", domain["labels"], 0, sizes["V"] - 1)
    within("proof.indices", proof["indices"], 0, sizes["H"] - 1)
    offsets = proof["offsets"]
    ends = (sizes["B"] == sizes["T"] + 1, offsets[0] == 0, offsets[-1] == sizes["E"])
    if not all(ends) or (offsets[1:] < offsets[:-1]).any():
        raise CertificateError("proof.offsets must rise from 0 to the number of latents, T+1 long.")
    problem = PointsProblem(
        NetworkWeights.of(certificate),
        **domain,
        decoder=dictionary["atoms"],
        bias=dictionary["bias"],
        **proof,
    )
    limits.check(*_needs(problem, certificate))
    return problem


def _needs(problem: PointsProblem, certificate: Certificate) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    D, N, V, T, H = (certificate.sizes[letter] for letter in "DNVTH")
    K, rows = problem.widest, min(problem.chunk, T)
    shared = 3 * (H + D) * N + 3 * D * V + 12 * N * V
    memory = 8 * (shared + rows * (12 * K * N + 30 * N + 16 * V + 4 * D)) + 200 * T
    chunks = min(T, V) + T // problem.chunk
    once = 2 * (H + 3) * D * (N + 1) + chunks * (24 * N * V + 4 * D * (N + V))
    return certificate.memory + memory, once + T * (
        2 * D * (N + V + 1) + 12 * N * V + 40 * (K + 1) * N + 40 * V
    )


def padded(problem: PointsProblem, rows: Indices) -> tuple[Indices, Array]:
    """Latents of some points [B, K]: index and activation; an activation of 0 where none is."""
    width = problem.widest
    start = problem.offsets[rows][:, None] + np.arange(width)
    there = start < problem.offsets[rows + 1][:, None]
    start = np.minimum(start, len(problem.values) - 1)
    return problem.indices[start], np.where(there, problem.values[start], 0.0)


class PointsEngine:
    """The two bounds, with what all points share."""

    def __init__(self, arithmetic: Arithmetic, problem: PointsProblem) -> None:
        self.arithmetic = count = arithmetic
        self.problem, weights = problem, problem.weights
        self.W_in, self.W_out = count.exact(weights.W_in), count.exact(weights.W_out)
        self.b_in, self.b_out = count.exact(weights.b_in), count.exact(weights.b_out)
        self.skip = count.exact(weights.skip)
        self.G = count.product(count.exact(problem.decoder), self.W_in)
        bias = count.exact(problem.bias)
        self.base = count.add(count.product(bias, self.W_in), self.b_in)

    def margins(self, rows: Indices, label: int) -> Array:
        """Lower bounds [B, V] on the margins of points with this label; +infinity at it."""
        count = self.arithmetic
        x = count.exact(self.problem.inputs[rows])
        index, value = padded(self.problem, rows)
        p = count.times(self.G[index], count.exact(value[..., None]))
        z = count.add(count.product(x, self.W_in), self.b_in)
        linear = count.add(count.product(x, self.skip), self.b_out)
        output = count.subtract(self.W_out.columns(slice(label, label + 1)), self.W_out)
        helping, hurting = count.relu(output), count.below(output)
        straight = count.subtract(linear.columns(slice(label, label + 1)), linear)
        best = None
        for hidden, less, more in (self.dominant(p, z), self.additive(p, z)):
            margin = count.add(straight, count.product(hidden, output))
            margin = count.subtract(margin, count.product(less, helping))
            low = count.add(margin, count.product(more, hurting)).low
            best = low if best is None else np.maximum(best, low)
            count.operations += 2 * low.size
        assert best is not None
        best[:, label] = np.inf
        return best

    def dominant(self, p: Rounded, z: Rounded) -> tuple[Rounded, Rounded, Rounded]:
        """σ(ẑ^dom) and δ = L_n(e_n + |s_n|) for contributions p [B, K, N] (T1, ladder B2).

        Like `additive`: a model's activations, and how far below and above the true ones are.
        """
        count = self.arithmetic
        owner = np.abs(p.value).argmax(axis=1)[:, None]
        largest = Rounded(np.take_along_axis(p.value, owner, axis=1).squeeze(axis=1), *p.bounds)
        others = count.subtract(count.total(p, axis=1), largest)
        kept = count.add(largest, self.base)
        reconstructed = count.add(kept, others)
        residual = count.absolute(count.subtract(z, reconstructed))
        error = count.add(residual, count.absolute(others))
        highest = count.maximum(count.maximum(z, reconstructed), kept)
        error = error.zero_where(highest.high <= 0)
        return count.relu(kept), error, error

    def additive(self, p: Rounded, z: Rounded) -> tuple[Rounded, Rounded, Rounded]:
        """The additive model, δ = ω_n Σ_k min(|S_k-1|, |p_k|) + L_n e_n split by sign (T2.2)."""
        count, base = self.arithmetic, self.base
        order = np.argsort(-np.abs(p.value), axis=1, kind="stable")
        p = Rounded(np.take_along_axis(p.value, order, axis=1), *p.bounds)
        resting = count.relu(base)
        alone = count.subtract(count.relu(count.add(p, base)), resting)
        hidden = count.add(count.total(alone, axis=1), resting)
        down = count.add(count.total(count.below(p), axis=1), base)
        up = count.add(count.total(count.relu(p), axis=1), base)
        less, more = self._chain(p)
        affine = (down.low >= 0) | (up.high <= 0)
        reconstructed = count.add(count.total(p, axis=1), base)
        residual = count.absolute(count.subtract(z, reconstructed))
        off = count.maximum(z, reconstructed).high <= 0
        residual = residual.zero_where(off)
        less, more = less.zero_where(affine), more.zero_where(affine)
        return hidden, count.add(less, residual), count.add(more, residual)

    def _chain(self, p: Rounded) -> tuple[Rounded, Rounded]:
        """Σ_{k>=2} min(|S_{k-1}|, |p_k|), the p in any one order: terms below and above zero.

        A second difference of a convex σ has the sign of S_{k-1} p_k: the signs are compared, for
        the product may underflow. Where rounding may have turned one of them the term is no larger
        than its error, which both sums carry.
        """
        count, so_far = self.arithmetic, p[:, 0]
        less = more = Rounded(*map(np.zeros_like, (so_far.value, *p.bounds)))
        for k in range(1, p.value.shape[1]):
            step = count.minimum(count.absolute(so_far), count.absolute(p[:, k]))
            same = np.sign(so_far.value) == np.sign(p.value[:, k])
            less = count.add(less, step.zero_where(same))
            more = count.add(more, step.zero_where(~same))
            so_far = count.add(so_far, p[:, k])
        return less, more


def evaluate(
    arithmetic: Arithmetic, problem: PointsProblem
) -> Iterator[tuple[Indices, Array, Array]]:
    """Rows, the worst margin of each (a lower bound) and its CE (an upper bound)."""
    engine = PointsEngine(arithmetic, problem)
    for label in np.unique(problem.labels):
        mine = np.flatnonzero(problem.labels == label)
        for start in range(0, len(mine), problem.chunk):
            rows = mine[start : start + problem.chunk]
            low = engine.margins(rows, int(label))
            yield rows, low.min(axis=1), log_sum(arithmetic, low)
