"""The circuits of a one-layer attention-only transformer, as tables.

Token t at position p is read as x = W_E[t] + W_pos[p]. A query q (the token at the last position)
scores it, it writes to the logits what it is worth, and the query writes to them directly. The
query's scale is part of W_Q; there are no biases and no norms. Tokens are renamed by their rank, so
that the label of a sequence is its largest token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crossproof.proof.certificate.format import Certificate, CertificateError
from crossproof.proof.certificate.verifier.arithmetic import (
    TINY,
    UNIT,
    UP,
    Arithmetic,
    Array,
    Rounded,
)

LARGEST_DOMAIN = 2**53
"""Sequences are counted in float64-exact integers."""


def check_domain(certificate: Certificate) -> None:
    """Raises CertificateError if tokens are not ordered, or there are too many sequences."""
    vocabulary, length = certificate.sizes["V"], certificate.sizes["C"]
    order = certificate.tensors["domain.order"]
    if not np.array_equal(np.sort(order), np.arange(vocabulary)):
        raise CertificateError(
            f"domain.order must name each of the {vocabulary} tokens once, the lowest first."
        )
    if length < 2:
        raise CertificateError("A sequence must be longer than its query: W_pos needs 2 rows.")
    if length * math.log2(vocabulary) > math.log2(LARGEST_DOMAIN):
        raise CertificateError(
            f"Sequences of {length} out of {vocabulary} tokens are more than 2^53: too many."
        )


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The layer; tokens by rank."""

    W_E: Array
    W_pos: Array
    W_Q: Array
    W_K: Array
    W_V: Array
    W_O: Array
    W_U: Array

    @classmethod
    def of(cls, certificate: Certificate) -> LayerWeights:
        """The network of a certificate whose domain was checked."""
        order, tensors = certificate.tensors["domain.order"], certificate.part("network")
        tensors["W_E"], tensors["W_U"] = tensors["W_E"][order], tensors["W_U"][:, order]
        return cls(**tensors)

    @property
    def vocabulary(self) -> int:
        """V, the tokens, which are the classes too."""
        return len(self.W_E)

    @property
    def length(self) -> int:
        """C, the positions; the query stands at the last."""
        return len(self.W_pos)


@dataclass(frozen=True, eq=False)
class Charges:
    """What a dictionary's residual may do to logits: size times distance of two classes."""

    values: Array
    """[C, V]: ‖ε W_V W_O‖ of a token at a position."""
    direct: Array
    """[V]: ‖ε‖ of a query."""
    distance: Array
    """[V, V]: ‖U_y - U_c‖."""


@dataclass(frozen=True, eq=False)
class Circuits:
    """Scores [C, V, V] (position, query, token); values [C, V, V] (position, token, class)."""

    low: Array
    """Of the true score less `score_error`; `high` is the same array where scores are computed."""
    high: Array
    score_error: float
    values: Array
    direct: Array
    """[V, V]: what a query adds to the logits by itself."""
    logit_error: float
    """On every entry of `values` and `direct`."""
    charges: Charges | None = None


def off(of: Rounded) -> float:
    """A bound on the error of all entries."""
    return float((of.error.max() + 2 * UNIT * of.size.max() + TINY) * UP)


def computed(count: Arithmetic, weights: LayerWeights) -> Circuits:
    """The circuits themselves."""
    tokens, positions = count.exact(weights.W_E), count.exact(weights.W_pos)
    queries = count.add(tokens, positions[-1])
    asked = count.product(queries, count.exact(weights.W_Q))
    by_token, by_position = (
        count.product(asked, count.product(x, count.exact(weights.W_K)).transposed())
        for x in (tokens, positions)
    )
    last = len(weights.W_pos)
    scores = [count.add(by_token, by_position.columns(slice(p, p + 1))) for p in range(last)]
    W_U = count.exact(weights.W_U)
    read = count.product(count.product(count.exact(weights.W_V), count.exact(weights.W_O)), W_U)
    token_values, position_values = count.product(tokens, read), count.product(positions, read)
    values = [count.add(token_values, position_values[p]) for p in range(last)]
    direct = count.product(queries, W_U)
    table = np.stack([score.value for score in scores])
    return Circuits(
        low=table,
        high=table,
        score_error=max(map(off, scores)),
        values=np.stack([value.value for value in values]),
        direct=direct.value,
        logit_error=max(map(off, [*values, direct])),
    )


@dataclass(frozen=True, eq=False)
class Exponentials:
    """e^score up to a positive factor a query, [C, V, V]: below and above."""

    low: Array
    high: Array
    relative: float
    """The true ones lie in `low` (1 - relative) to `high` (1 + relative), where they are no
    smaller than `TINY`; rounding of sums and products of `low` and `high` is included."""


def exponentials(count: Arithmetic, low: Array, high: Array, error: float) -> Exponentials:
    """Of scores in `low` - error to `high` + error, less the largest of each query."""
    shift = high.max(axis=(0, 2))[None, :, None]
    size = float(np.abs(low).max() + np.abs(high).max())
    same = high is low
    count.operations += (3 if same else 5) * low.size
    below = np.exp(low - shift)
    above = below if same else np.exp(high - shift)
    return Exponentials(below, above, relative_error(error + 4 * UNIT * size, len(low)))


def relative_error(error: float, positions: int) -> float:
    """Of an exponential whose argument is off by `error`, and of sums over positions of them.

    Includes 8 units for exp itself, and what products and sums of `positions` terms round.
    Infinity, with which nothing is proved, if `error` is not small.
    """
    return (1.01 * error + (64 + 16 * positions) * UNIT) * UP if error < 1e-2 else math.inf


def floor(positions: int, *gaps: Array) -> float:
    """What exponentials and products below the smallest float may add up to."""
    return TINY * (positions + 1) * (1 + sum(float(np.abs(gap).max()) for gap in gaps))
