"""Certificates of attention layers without rounding: fractions, and exponentials to sixty digits.

Written from docs/certificate-format.md and docs/theory/attention.md, like `exact_checker`, and
slow. A sum that is zero but for its last digits counts as zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

from exact_checker import WIDE, Matrix, Row, dot, others, plus, through

CLASS, QUERY, LABEL = 1, 2, 3
Range = tuple[Decimal, Decimal]


@dataclass(frozen=True)
class Sequences:
    """Sequences of tokens by rank, the query last."""

    margins: dict[tuple[int, ...], Decimal]
    """The least margin of each."""
    proved: set[tuple[int, ...]]
    """Those that the certificate proves."""

    @property
    def right(self) -> set[tuple[int, ...]]:
        return {sequence for sequence, margin in self.margins.items() if margin > 0}


def decimal(number: Fraction | int) -> Decimal:
    return WIDE.divide(Decimal(int(number.numerator)), Decimal(int(number.denominator)))


def total(terms: Iterable[Decimal]) -> Decimal:
    """The sum; zero where nothing but the last digits is left of it."""
    terms = list(terms)
    sums = [Decimal(0), Decimal(0)]
    for term in terms:
        sums = [WIDE.add(sums[0], term), WIDE.add(sums[1], abs(term))]
    return sums[0] if abs(sums[0]) > WIDE.multiply(sums[1], Decimal("1e-50")) else Decimal(0)


def norm(row: Sequence[Fraction]) -> Decimal:
    return WIDE.sqrt(decimal(dot(row, row)))


def check(kind: str, tensors: dict[str, Any]) -> Sequences:
    """Everything that a certificate's tensors prove, and what is true."""
    layer = Layer.of(tensors)
    V, C = len(layer.W_E), len(layer.W_pos)
    everything = list(itertools.product(range(V), repeat=C))
    margins = {tokens: layer.margin(tokens) for tokens in everything}
    if kind == "sequences":
        return Sequences(margins, {tokens for tokens in everything if margins[tokens] > 0})
    table = Circuits.of(layer, tensors) if kind == "attention" else through_latents(layer, tensors)
    proof = Proof(table, tensors, V, C)
    return Sequences(margins, {tokens for tokens in everything if proof.holds(tokens)})


@dataclass(frozen=True)
class Layer:
    """The network, tokens by rank."""

    W_E: Matrix
    W_pos: Matrix
    W_Q: Matrix
    W_K: Matrix
    W_VO: Matrix
    W_U: Matrix

    @classmethod
    def of(cls, tensors: dict[str, Any]) -> Layer:
        order = tensors["domain.order"]
        weights = {name: tensors[f"network.{name}"] for name in ("W_pos", "W_Q", "W_K")}
        written = [through(row, tensors["network.W_O"]) for row in tensors["network.W_V"]]
        return cls(
            W_E=[tensors["network.W_E"][token] for token in order],
            W_U=[[row[token] for token in order] for row in tensors["network.W_U"]],
            W_VO=written,
            **weights,
        )

    def read(self, position: int, token: int) -> Row:
        """What is read there."""
        return plus(self.W_E[token], self.W_pos[position])

    def asked(self, x: Row) -> Row:
        """The direction that scores what is read, for a query."""
        return [dot(through(x, self.W_Q), key) for key in self.W_K]

    def written(self, x: Row) -> Row:
        return through(through(x, self.W_VO), self.W_U)

    def margin(self, tokens: Sequence[int]) -> Decimal:
        """The least margin of a sequence."""
        label, x = max(tokens), [self.read(p, token) for p, token in enumerate(tokens)]
        return min(self.gaps(x, label))

    def gaps(self, x: list[Row], label: int) -> list[Decimal]:
        """The margins against every other class of what is read."""
        key, direct = self.asked(x[-1]), through(x[-1], self.W_U)
        scores = [dot(key, each) for each in x]
        weights = [WIDE.exp(decimal(score - max(scores))) for score in scores]
        logits, everything = [self.written(each) for each in x], total(weights)
        made = []
        for c in others(label, len(direct)):
            gaps = [decimal(v[label] - v[c] + direct[label] - direct[c]) for v in logits]
            terms = (WIDE.multiply(w, gap) for w, gap in zip(weights, gaps, strict=True))
            made.append(WIDE.divide(total(terms), everything))
        return made


@dataclass(frozen=True)
class Circuits:
    """What a proof knows: scores by query, position and token between bounds, and outputs."""

    scores: Callable[[int, int, int], tuple[Fraction, Fraction]]
    values: Callable[[int, int], Row]
    direct: Callable[[int], Row]
    lost: Callable[[int, int], Decimal]
    """How long the part of an output is that the latents miss, by position and token."""
    lost_direct: Callable[[int], Decimal]
    apart: Callable[[int, int], Decimal]
    """‖U_y - U_c‖."""

    @classmethod
    def of(cls, layer: Layer, _: dict[str, Any]) -> Circuits:
        """The circuits themselves."""
        last = len(layer.W_pos) - 1

        def scores(query: int, position: int, token: int) -> tuple[Fraction, Fraction]:
            score = dot(layer.asked(layer.read(last, query)), layer.read(position, token))
            return score, score

        return cls(
            cache(scores),
            cache(lambda p, t: layer.written(layer.read(p, t))),
            cache(lambda q: through(layer.read(last, q), layer.W_U)),
            lambda p, t: Decimal(0),
            lambda q: Decimal(0),
            lambda y, c: Decimal(0),
        )


def through_latents(layer: Layer, tensors: dict[str, Any]) -> Circuits:
    """The circuits through a dictionary's latents, all that these leave out charged."""
    parts = [*tensors["dictionary.atoms"], tensors["dictionary.bias"]]
    kept, order = tensors["proof.kept"], tensors["domain.order"]
    offsets, V = tensors["proof.offsets"], len(layer.W_E)
    indices, numbers = tensors["proof.indices"], tensors["proof.values"]
    pairs = [[dot(layer.asked(ours), theirs) for theirs in parts] for ours in parts]
    last = len(layer.W_pos) - 1

    @cache
    def code(position: int, token: int) -> dict[int, Fraction]:
        row = position * V + order[token]
        here = range(offsets[row], offsets[row + 1])
        return {indices[e]: numbers[e] for e in here} | {len(parts) - 1: Fraction(1)}

    @cache
    def rebuilt(position: int, token: int) -> Row:
        rows = [[a * d for d in parts[h]] for h, a in code(position, token).items()]
        return plus(*rows)

    @cache
    def rest(position: int, token: int) -> Row:
        true, ours = layer.read(position, token), rebuilt(position, token)
        return [x - y for x, y in zip(true, ours, strict=True)]

    def scores(query: int, position: int, token: int) -> tuple[Fraction, Fraction]:
        score = missed = Fraction(0)
        for i, a in code(last, query).items():
            for j, b in code(position, token).items():
                if kept[i][j]:
                    score += a * b * pairs[i][j]
                else:
                    missed += abs(a * b * pairs[i][j])
        ours, theirs = layer.asked(rebuilt(last, query)), layer.asked(rest(last, query))
        missed += abs(dot(theirs, rebuilt(position, token)))
        missed += abs(dot(ours, rest(position, token))) + abs(dot(theirs, rest(position, token)))
        return score - missed, score + missed

    columns = list(zip(*layer.W_U, strict=True))
    return Circuits(
        cache(scores),
        cache(lambda p, t: layer.written(rebuilt(p, t))),
        cache(lambda q: through(rebuilt(last, q), layer.W_U)),
        cache(lambda p, t: norm(through(rest(p, t), layer.W_VO))),
        cache(lambda q: norm(rest(last, q))),
        cache(lambda y, c: norm([a - b for a, b in zip(columns[y], columns[c], strict=True)])),
    )


class Proof:
    """Which sequences a certificate proves: the least of its group's sums is above zero."""

    def __init__(self, table: Circuits, tensors: dict[str, Any], V: int, C: int) -> None:
        self.table, self.V, self.C = table, V, C
        (self.grain,), order = tensors["proof.grain"], tensors["domain.order"]
        self.asked = [tensors["proof.asked"][token] for token in order]
        self.keys = [[row[token] for token in order] for row in tensors["proof.read"]]
        self.gap, self.exponents = cache(self._gap), cache(self._exponents)
        self.known = cache(self._holds)

    def holds(self, tokens: tuple[int, ...]) -> bool:
        label, query = max(tokens), tokens[-1]
        free = tokens if self.grain == LABEL else tokens[:-1]
        elsewhere = [token for token in free if token != label]
        there = tuple(token == label for token in free)
        query = -1 if self.grain == LABEL else query
        # A larger bound on the tokens elsewhere proves no sequence that a smaller one does not.
        return self.known(query, label, there, max(elsewhere, default=-1) + 1)

    def _holds(self, query: int, label: int, there: tuple[bool, ...], bound: int) -> bool:
        classes = others(label, self.V) if self.grain == CLASS else [-1]
        top = max(
            self.exponents(query, p, t, label)[1] for p in range(self.C) for t in range(label + 1)
        )

        def term(position: int, token: int, c: int) -> Decimal:
            low, high = self.exponents(query, position, token, label)
            gap = self.gap(query, position, token, label, c)
            exponent = low if gap >= 0 else high
            return WIDE.multiply(WIDE.exp(decimal(exponent - top)), gap)

        for c in classes:
            terms = [] if self.grain == LABEL else [term(self.C - 1, query, c)]
            for position, here in enumerate(there):
                tokens = [label] if here else range(bound)
                terms.append(min(term(position, token, c) for token in tokens))
            if total(terms) <= 0:
                return False
        return True

    def _exponents(self, query: int, p: int, t: int, label: int) -> tuple[Fraction, Fraction]:
        """Bounds on the score, less the same number for all tokens and positions."""
        if self.grain != LABEL:
            return self.table.scores(query, p, t)
        queries = range(label + 1)
        apart = self.keys[p][t] - self.keys[0][label]
        ends = [self.asked[q] * apart for q in queries]
        both = [self.table.scores(q, p, t) for q in queries]
        rest = [self.asked[q] * self.keys[p][t] for q in queries]
        least = min(low - r for (low, _), r in zip(both, rest, strict=True))
        most = max(high - r for (_, high), r in zip(both, rest, strict=True))
        return min(ends) + least, max(ends) + most

    def _gap(self, query: int, p: int, t: int, label: int, c: int) -> Decimal:
        """By how much the label's logit exceeds another's, at least."""
        values, lost = self.table.values(p, t), self.table.lost(p, t)
        if self.grain == LABEL:
            direct = min(self._lead(self.table.direct(q), self.table.lost_direct(q), label)
                         for q in range(label + 1))  # fmt: skip
            return total([self._lead(values, lost, label), direct])
        row, lost_direct = self.table.direct(query), self.table.lost_direct(query)
        if self.grain == QUERY:
            return total([self._lead(values, lost, label), self._lead(row, lost_direct, label)])
        gap = decimal(values[label] - values[c] + row[label] - row[c])
        charge = WIDE.multiply(WIDE.add(lost, lost_direct), self.table.apart(label, c))
        return WIDE.subtract(gap, charge)

    def _lead(self, row: Row, lost: Decimal, label: int) -> Decimal:
        rest = others(label, self.V)
        gap = decimal(row[label] - max(row[c] for c in rest))
        farthest = max(self.table.apart(label, c) for c in rest)
        return WIDE.subtract(gap, WIDE.multiply(lost, farthest))
