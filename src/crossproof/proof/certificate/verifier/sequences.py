"""Every sequence, one by one: brute force as a certificate, with its rounding.

Softmax divides by a positive number, so the sign of a margin is that of Σ_p e^{S_p} times what
position p and the query write (docs/theory/attention.md): logits are sums of one row a position.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from crossproof.proof.certificate.format import Certificate, Limits
from crossproof.proof.certificate.verifier.arithmetic import UP, Arithmetic, Array, Indices
from crossproof.proof.certificate.verifier.circuits import (
    LayerWeights,
    check_domain,
    computed,
    exponentials,
    floor,
)


def read(certificate: Certificate, limits: Limits) -> LayerWeights:
    """Checks the order of the tokens and what running all sequences needs."""
    check_domain(certificate)
    limits.check(*_needs(certificate))
    return LayerWeights.of(certificate)


def _needs(certificate: Certificate) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    sizes = certificate.sizes
    V, C = sizes["V"], sizes["C"]
    memory, operations = circuit_needs(sizes)
    block = V ** min(C - 1, 2)
    memory += 8 * (block * (2 * V + 16) + 4 * C * V * (V + 1))
    return certificate.memory + memory, operations + V * (brute_force(V, C) + 8 * C * V * (V + 1))


def circuit_needs(sizes: Mapping[str, int]) -> tuple[int, int]:
    """Bytes and operations of the circuits and their exponentials."""
    V, C, D, A = (sizes[letter] for letter in "VCDA")
    rows = V + C
    memory = 8 * (12 * C * V * V + 6 * V * V + 8 * rows * (D + A + V) + 4 * D * (A + D + V))
    products = 2 * rows * A * (2 * D + V) + 2 * D * (A * D + D * V) + 4 * rows * D * V
    return memory, products + 8 * (D * A + D * V + V * A) + 12 * C * V * V + 8 * V * (D + V)


def brute_force(vocabulary: int, length: int) -> int:
    """Operations of all sequences of one query, the circuits given."""
    blocks: int = vocabulary ** max(length - 3, 0)
    block: int = vocabulary ** min(length - 1, 2)
    return blocks * (block * (2 * vocabulary + 5) + (length + 1) * vocabulary * (vocabulary + 1))


class Enumeration:
    """Logits of all sequences, times the softmax's denominator."""

    def __init__(self, count: Arithmetic, weights: LayerWeights) -> None:
        self.count, self.weights = count, weights
        self.circuits = computed(count, weights)
        circuits = self.circuits
        self.weighted = exponentials(count, circuits.low, circuits.low, circuits.score_error)
        size = np.abs(circuits.values).max() + np.abs(circuits.direct).max()
        relative = self.weighted.relative
        self.slack = 2 * (relative * size + 2 * circuits.logit_error * (1 + relative)) * UP
        self.floor = floor(weights.length, circuits.values, circuits.direct)

    def rows(self, query: int) -> Array:
        """What each token adds at each position, [C, V, V + 1]; last, how far that may be off."""
        weight = self.weighted.low[:, query, :, None]
        logits = weight * (self.circuits.values + self.circuits.direct[query])
        self.count.operations += 2 * logits.size + weight.size
        return np.concatenate([logits, weight * self.slack], axis=-1)

    def right(self, logits: Array, label: Indices) -> np.ndarray:
        """Whether the label's logit is certainly above all others; `logits` [..., V + 1]."""
        self.count.operations += logits.size + 3 * label.size
        at = label[..., None]
        own = np.take_along_axis(logits, at, axis=-1)[..., 0]
        off = logits[..., -1]
        others = logits[..., :-1]
        np.put_along_axis(others, at, -np.inf, axis=-1)
        certain: np.ndarray = own - others.max(axis=-1) > off + self.floor
        return certain

    def blocks(self, query: int) -> Iterator[np.ndarray]:
        """Which sequences with this query are right, those of the same first tokens together."""
        rows, vocabulary = self.rows(query), self.weights.vocabulary
        free = self.weights.length - 1
        inner = min(free, 2)
        number = np.arange(vocabulary)
        grid = number if inner == 1 else np.maximum(number[:, None], number)
        for first in itertools.product(range(vocabulary), repeat=free - inner):
            base = rows[-1, query] + sum(rows[p, t] for p, t in enumerate(first))
            logits = rows[free - inner] + base
            self.count.operations += (len(first) + vocabulary) * len(base)
            if inner == 2:
                logits = logits[:, None] + rows[free - 1]
                self.count.operations += logits.size
            yield self.right(logits, np.maximum(grid, max((query, *first))))
