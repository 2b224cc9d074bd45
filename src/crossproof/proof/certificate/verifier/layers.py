"""Whole layers of a transformer in float64, with a bound on how far rounding has led each row.

A row is charged one number, a Euclidean distance: what comes in is multiplied by the layer's
Lipschitz constant, and the layer's own roundings are added (γ_k of a product of length k, Higham,
with Frobenius norms of matrices). That is loose, and rounding is so small that it does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crossproof.proof.certificate.verifier.arithmetic import (
    TINY,
    UNIT,
    UP,
    Array,
    gamma,
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Values [..., n]; the true row is no further than `radius` [...] from the computed one."""

    value: Array
    radius: Array

    @classmethod
    def exact(cls, value: Array) -> Rows:
        """Numbers as they are stored."""
        return cls(value, np.zeros(value.shape[:-1]))

    def plus(self, other: Rows) -> Rows:
        """The sum."""
        value = self.value + other.value
        return bounded(value, self.radius + other.radius + 2 * UNIT * lengths(value))

    def times(self, other: Rows) -> Rows:
        """The product, entry by entry."""
        value = self.value * other.value
        moved = largest(self.value) * other.radius + largest(other.value) * self.radius
        moved = moved + self.radius * other.radius
        return bounded(value, moved + 2 * UNIT * lengths(value))

    def where(self, rows: np.ndarray, other: Rows) -> Rows:
        """The rows of `self` where `rows` is true, and of `other` elsewhere."""
        value = np.where(rows[..., None], self.value, other.value)
        return Rows(value, np.where(rows, self.radius, other.radius))


def bounded(value: Array, radius: Array) -> Rows:
    """Rows with what computing the radius itself may have lost."""
    return Rows(value, (radius + TINY) * UP)


def lengths(of: Array) -> Array:
    """Upper bounds on the Euclidean lengths of rows; squares that vanish are allowed for."""
    size: Array = np.sqrt(np.einsum("...n,...n->...", of, of))
    upper: Array = size * (1 + gamma(of.shape[-1] + 4)) + 1e-150 * of.shape[-1]
    return upper


def length(of: Array) -> float:
    """The same of a vector."""
    return float(lengths(of[None])[0])


def largest(of: Array) -> Array:
    """The largest magnitude of each row."""
    most: Array = np.abs(of).max(axis=-1)
    return most


def spectral(W: Array) -> float:
    """An upper bound on the spectral norm of W [k, n].

    With a symmetric P of Frobenius norm at most 1, ‖P‖² = ‖P²‖, whatever P² is off by in float64
    is at most γ, and the spectral norm of P⁸ is at most its Frobenius norm: P is WᵀW or WWᵀ.
    """
    gram = W @ W.T if len(W) < W.shape[1] else W.T @ W
    lost = gamma(max(W.shape) + 8)
    scale = length(gram.ravel()) * UP + TINY
    power = (gram + gram.T) / 2 / scale
    for _ in range(3):
        power = power @ power
        power = (power + power.T) / 2
    bound = length(power.ravel()) + lost
    for _ in range(3):
        bound = (math.sqrt(bound) + lost) * UP
    return math.sqrt(scale * bound + 2 * lost * length(W.ravel()) ** 2) * UP


@dataclass(frozen=True, eq=False)
class Linear:
    """x W + b."""

    W: Array
    b: Array

    @cached_property
    def size(self) -> float:
        """The Frobenius norm of W, rounded up."""
        return length(self.W.ravel())

    @cached_property
    def gain(self) -> float:
        """An upper bound on the spectral norm of W."""
        return spectral(self.W)

    def __call__(self, x: Rows) -> Rows:
        """Rows through it."""
        value = x.value @ self.W + self.b
        own = lengths(x.value) * self.size + length(self.b)
        return bounded(value, x.radius * self.gain + gamma(len(self.W) + 4) * own)


@dataclass(frozen=True, eq=False)
class NormLayer:
    """√D w ⊙ Pr / √(‖Pr‖² + D ε) + b, P the centring of a LayerNorm or the identity."""

    weight: Array
    bias: Array
    epsilon: float
    centred: bool

    def __call__(self, r: Rows) -> Rows:
        """Rows through it; its Lipschitz constant on a ball is max|w| √D / the least scale."""
        width, v = len(self.weight), r.value
        c = v - v.mean(axis=-1, keepdims=True) if self.centred else v
        size, lost = lengths(c), gamma(2 * width + 32)
        blur = r.radius + lost * lengths(v)  # P does not lengthen; a mean cancels digits of v
        least = np.maximum(size * (1 - 4 * lost) - blur, 0.0)
        least = np.sqrt(least**2 + width * self.epsilon) * (1 - lost)
        scale = np.sqrt(size**2 + width * self.epsilon)
        value = math.sqrt(width) * self.weight * (c / scale[..., None]) + self.bias
        strength = math.sqrt(width) * float(np.abs(self.weight).max()) / least
        rounding = 4 * lost * (strength * size + length(self.bias))
        return bounded(value, strength * blur + rounding)


def _erf(x: Array) -> Array:
    value: Array = np.vectorize(math.erf, otypes=[np.float64])(x)
    return value


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def _gelu(x: Array) -> Array:
    value: Array = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return value


def _gelu_tanh(x: Array) -> Array:
    value: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return value


def _silu(x: Array) -> Array:
    value: Array = x / (1 + np.exp(-x))
    return value


def _quick_gelu(x: Array) -> Array:
    value: Array = x / (1 + np.exp(-1.702 * x))
    return value


def _identity(x: Array) -> Array:
    return x


ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "relu": (_relu, 1.0),
    "gelu": (_gelu, 1.13),
    "gelu_tanh": (_gelu_tanh, 1.13),
    "silu": (_silu, 1.1),
    "quick_gelu": (_quick_gelu, 1.1),
    "identity": (_identity, 1.0),
}
"""Each with an upper bound on its slope (docs/theory/constants.md)."""


def activated(x: Rows, name: str) -> Rows:
    """Rows through an activation; each value is off by 16 machine epsilons of |x| at most."""
    function, slope = ACTIVATIONS[name]
    return bounded(function(x.value), slope * x.radius + 32 * UNIT * lengths(x.value))


@dataclass(frozen=True, eq=False)
class MLPLayer:
    """An MLP, plain or gated, of the input that its norm gives."""

    reads: Linear
    writes: Linear
    activation: str
    gate: Linear | None = None

    def __call__(self, x: Rows) -> Rows:
        """Its output."""
        return self.output(self.reads(x), None if self.gate is None else self.gate(x))

    def output(self, linear: Rows, gate: Rows | None) -> Rows:
        """Its output at given pre-activations."""
        if gate is None:
            return self.writes(activated(linear, self.activation))
        return self.writes(activated(gate, self.activation).times(linear))


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """The attention of a block, of the input that its norm gives; heads share keys in groups."""

    queries: list[Linear]
    keys: list[Linear]
    values: list[Linear]
    writes: list[Linear]
    bias: Array
    scale: float
    window: int | None = None
    turns: tuple[Array, Array] | None = None
    """Cosines and sines [T, P] that coordinates i and i + P of queries and keys turn by."""

    def __call__(self, x: Rows) -> Rows:
        """Its output at sequences [S, T, D]."""
        group = len(self.queries) // len(self.keys)
        keys = [self.turned(key(x)) for key in self.keys]
        values = [value(x) for value in self.values]
        total = Rows.exact(np.broadcast_to(self.bias, x.value.shape))
        for head, (query, write) in enumerate(zip(self.queries, self.writes, strict=True)):
            mixed = self.mixed(self.turned(query(x)), keys[head // group], values[head // group])
            total = total.plus(write(mixed))
        return total

    def turned(self, rows: Rows) -> Rows:
        """Queries or keys at their positions."""
        if self.turns is None:
            return rows
        (cos, sin), half = self.turns, self.turns[0].shape[1]
        left, right, rest = np.split(rows.value, (half, 2 * half), axis=-1)
        parts = [left * cos - right * sin, right * cos + left * sin, rest]
        value = np.concatenate(parts, axis=-1)
        longest = max(1.0, float((np.abs(cos) + np.abs(sin)).max()))
        return bounded(value, longest * (rows.radius + 4 * UNIT * lengths(rows.value)))

    def mixed(self, query: Rows, key: Rows, value: Rows) -> Rows:
        """Σ_k A_qk v_k. Scores that move by τ at most move the weights by 2 tanh(τ/2) ≤ τ in sum.

        A true value is within its radius of the computed one, and weights sum to 1.
        """
        length, width = query.value.shape[-2:]
        scores = self.scale * (query.value @ key.value.swapaxes(-1, -2))
        offset = np.arange(length)[:, None] - np.arange(length)
        seen = (offset >= 0) & (offset < (self.window or length))
        scores = np.where(seen, scores, -np.inf)
        top = scores.max(axis=-1, keepdims=True)
        shares = np.exp(scores - top)
        shares = shares / shares.sum(axis=-1, keepdims=True)
        longest = lengths(key.value).max(-1, keepdims=True)
        furthest = key.radius.max(-1, keepdims=True)
        moved = (lengths(query.value) + query.radius) * furthest + query.radius * longest
        moved = moved + gamma(width + 8) * lengths(query.value) * longest
        reach = abs(self.scale) * lengths(query.value) * longest
        moved = abs(self.scale) * moved + 8 * UNIT * (reach + 1)
        weights = moved + 2 * gamma(length + 32)
        size = lengths(value.value).max(-1, keepdims=True)
        blur = value.radius.max(-1, keepdims=True)
        out = shares @ value.value
        return bounded(out, (weights + gamma(length + 8)) * size + blur)
