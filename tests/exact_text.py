"""Certificates of language models without rounding: numbers of fifty digits, nothing of crossproof.

Written from docs/certificate-format.md, like `exact_checker`, and slow. Statistical certificates
are checked claim by claim; of those of listed contexts both models' ends are run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

Row = list[Decimal]
Rows = list[Row]
DIGITS = 50
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def claims_hold(claim: dict[str, Any], tensors: dict[str, Any]) -> list[tuple[bool, bool, bool]]:
    """Whether each statistical statement follows: loss gap, share changed, share beyond."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = DIGITS, 10**15, -(10**15)
        return list(_claims(claim, tensors))


def _claims(claim: dict[str, Any], tensors: dict[str, Any]) -> Iterator[tuple[bool, bool, bool]]:
    low, high = map(Fraction, claim["range"])
    statements, digests = claim["statements"], tensors["text.digests"]
    alpha = Fraction(claim["delta"]) / (3 * len(statements))
    order = sorted(range(len(digests)), key=lambda document: digests[document])
    for at, statement in enumerate(statements):
        gaps, shares = [], []
        for document in order:
            tokens = tensors["text.tokens"][document]
            treated = tensors["values.treated_loss"][document][at]
            gaps.append((treated - tensors["values.loss"][document]) / tokens)
            shares.append(Fraction(tensors["values.changed"][document][at], tokens))
        unit = [(min(max(gap, low), high) - low) / (high - low) for gap in gaps]
        beyond = sum(gap > high for gap in gaps)
        yield (
            won(unit, alpha, (Fraction(statement["loss_gap"]) - low) / (high - low)),
            won(shares, alpha, Fraction(statement["changed"])),
            unlikely(beyond, len(gaps), alpha, Fraction(statement["beyond"])),
        )


def won(values: Sequence[Fraction], alpha: Fraction, mean: Fraction) -> bool:
    """Whether whoever bets that the mean is below `mean` ever has 1/alpha times his stake."""
    if mean >= 1:
        return True
    count, needed = len(values), -_decimal(alpha).ln()
    seen, squares, variance = Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)
    capital = Decimal(1)
    for number, value in enumerate(values, start=2):
        bet = (2 * needed / (count * _decimal(variance))).sqrt()
        bet = min(bet, Decimal("0.75") / _decimal(1 - mean))
        capital *= 1 + bet * _decimal(mean - value)
        if capital.ln() >= needed:
            return True
        seen += value
        squares += (value - seen / number) ** 2
        variance = squares / number
    return False


def unlikely(successes: int, count: int, alpha: Fraction, share: Fraction) -> bool:
    """Whether so few successes have probability `alpha` or less, at this share."""
    if share >= 1:
        return True
    terms = (
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(successes + 1)
    )
    return sum(terms) <= alpha


def _decimal(number: Fraction) -> Decimal:
    return Decimal(number.numerator) / Decimal(number.denominator)


@dataclass(frozen=True)
class Treated:
    """What a treatment does at the listed contexts."""

    kept: int
    loss_change: Decimal
    token_change: Decimal
    logits: Rows
    """Of the model itself, at every prediction."""


def contexts(shape: dict[str, Any], tensors: dict[str, Any], mlps: int, keep: int) -> Treated:
    """Of the tensors (nested lists of floats) and the header's `shape`."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = DIGITS, 10**15, -(10**15)
        return ModelEnd(shape, tensors).treated(mlps, keep)


def exact(value: Any) -> Any:
    """Nested lists of floats as decimals, which hold them as they are; integers stay."""
    if isinstance(value, list):
        return [exact(entry) for entry in value]
    return Decimal(value) if isinstance(value, float) else value


def dot(left: Sequence[Decimal], right: Sequence[Decimal]) -> Decimal:
    return sum((a * b for a, b in zip(left, right, strict=True)), Decimal(0))


def affine(x: Row, W: Rows, b: Row) -> Row:
    return [dot(x, column) + bias for column, bias in zip(zip(*W, strict=True), b, strict=True)]


def plus(left: Rows, right: Rows) -> Rows:
    return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(left, right, strict=True)]


def erf(x: Decimal) -> Decimal:
    """Its series; arguments are small here, and more digits are carried than are lost."""
    with localcontext() as context:
        context.prec = 3 * DIGITS
        term = whole = x
        for n in itertools.count(1):
            term = -term * x * x / n
            whole += term / (2 * n + 1)
            if abs(term) < Decimal(10) ** (-2 * DIGITS):
                return 2 * whole / PI.sqrt()
    raise AssertionError


def sigmoid(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


def _gelu_tanh(x: Decimal) -> Decimal:
    inner = (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)
    return x * sigmoid(2 * inner)  # 1 + tanh(z) = 2 sigmoid(2z)


ACTIVATIONS = {
    "relu": lambda x: max(x, Decimal(0)),
    "identity": lambda x: x,
    "gelu": lambda x: x * (1 + erf(x / Decimal(2).sqrt())) / 2,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * sigmoid(x),
    "quick_gelu": lambda x: x * sigmoid(Decimal("1.702") * x),
}


class ModelEnd:
    """The model from the stream saved on, a context at a time."""

    def __init__(self, shape: dict[str, Any], tensors: dict[str, Any]) -> None:
        self.shape = shape
        self.tensors = {name: exact(tensor) for name, tensor in tensors.items()}
        self.codes = self._codes()

    def _codes(self) -> dict[tuple[int, int], dict[int, Decimal]]:
        t = self.tensors
        scored = [
            (s, at)
            for s, row in enumerate(t["contexts.scored"])
            for at, mark in enumerate(row)
            if mark
        ]
        offsets = t["contexts.offsets"]
        return {
            place: {t["contexts.indices"][e]: t["contexts.values"][e] for e in range(*ends)}
            for place, ends in zip(scored, itertools.pairwise(offsets), strict=True)
        }

    def norm(self, name: str, x: Row) -> Row:
        t, shape = self.tensors, self.shape
        mean = sum(x) / len(x) if shape["centred"][name] else Decimal(0)
        centred = [entry - mean for entry in x]
        size = (dot(centred, centred) / len(x) + Decimal(shape["epsilons"][name])).sqrt()
        ends = t[f"weights.{name}.norm_weight"], t[f"weights.{name}.norm_bias"]
        return [w * c / size + b for w, c, b in zip(ends[0], centred, ends[1], strict=True)]

    def paths(self, at: int) -> list[tuple[Rows, Row]]:
        """What reads: W_in, and of a gated MLP W_gate."""
        t, own = self.tensors, f"weights.mlp{at}"
        names = ("in", "gate") if self.shape["gated"][at] else ("in",)
        return [(t[f"{own}.W_{name}"], t[f"{own}.b_{name}"]) for name in names]

    def output(self, at: int, pre: list[Row]) -> Row:
        own, act = f"weights.mlp{at}", ACTIVATIONS[self.shape["activations"][at]]
        hidden = [act(z) for z in pre[-1]]
        if len(pre) > 1:
            hidden = [h * z for h, z in zip(hidden, pre[0], strict=True)]
        return affine(hidden, self.tensors[f"{own}.W_out"], self.tensors[f"{own}.b_out"])

    def mlp(self, at: int, x: Row) -> Row:
        read = self.norm(f"mlp{at}", x)
        return self.output(at, [affine(read, *path) for path in self.paths(at)])

    def reads(self, at: int, code: dict[int, Decimal], keep: int) -> Row:
        """The MLP's output when every neuron reads its `keep` largest latents."""
        atoms = self.tensors[f"dictionary.mlp{at}.atoms"]
        bias = self.tensors[f"dictionary.mlp{at}.bias"]
        paths = self.paths(at)
        pre = [affine(bias, *path) for path in paths]
        for n in range(len(pre[0])):
            columns = [[row[n] for row in W] for W, _ in paths]
            parts = [[a * dot(atoms[h], column) for column in columns] for h, a in code.items()]
            parts.sort(key=lambda part: -sum(map(abs, part)))
            for path, row in enumerate(pre):
                row[n] += sum((part[path] for part in parts[:keep]), Decimal(0))
        return self.output(at, pre)

    def attention(self, stream: Rows) -> Rows:
        t, shape, own = self.tensors, self.shape, "weights.attention"
        x = [self.norm("attention", row) for row in stream]
        total = [list(t[f"{own}.b_O"]) for _ in x]
        heads, group = t[f"{own}.W_Q"], len(t[f"{own}.W_Q"]) // len(t[f"{own}.W_K"])
        for head in range(len(heads)):
            q, k, v = (
                [affine(row, t[f"{own}.W_{w}"][i], t[f"{own}.b_{w}"][i]) for row in x]
                for w, i in (("Q", head), ("K", head // group), ("V", head // group))
            )
            q, k = self.turned(q), self.turned(k)
            for at in range(len(x)):
                first = max(0, at + 1 - (shape["window"] or len(x)))
                scores = [Decimal(shape["scale"]) * dot(q[at], k[b]) for b in range(first, at + 1)]
                weights = [(score - max(scores)).exp() for score in scores]
                mixed = [
                    dot(weights, column) / sum(weights)
                    for column in zip(*v[first : at + 1], strict=True)
                ]
                more = affine(mixed, t[f"{own}.W_O"][head], [Decimal(0)] * len(x[0]))
                total[at] = plus([total[at]], [more])[0]
        return plus(stream, total)

    def turned(self, rows: Rows) -> Rows:
        if not self.shape["rotary"]:
            return rows
        turned = []
        cosines, sines = (self.tensors[f"weights.attention.{k}"] for k in ("cos", "sin"))
        for row, cos, sin in zip(rows, cosines, sines, strict=True):
            half = len(cos)
            left, right, rest = row[:half], row[half : 2 * half], row[2 * half :]
            pairs = list(zip(left, right, cos, sin, strict=True))
            turned.append([a * c - b * s for a, b, c, s in pairs]
                          + [b * c + a * s for a, b, c, s in pairs] + rest)  # fmt: skip
        return turned

    def run(self, s: int, mlps: int = 0, keep: int = 0) -> Rows:
        """Logits [T, V] of a context when the last `mlps` MLPs read `keep` latents a neuron."""
        stream, last = self.tensors["contexts.stream"][s], self.shape["mlps"] - 1
        for at in range(last + 1):
            stream = self.attention(stream) if at else stream
            replaced = at > last - mlps
            out = [
                self.reads(at, self.codes[s, place], keep)
                if replaced and (s, place) in self.codes
                else self.mlp(at, row)
                for place, row in enumerate(stream)
            ]
            stream = plus(stream, out)
        U, bias = (self.tensors[f"weights.final.{k}"] for k in ("unembedding", "unembedding_bias"))
        columns = list(zip(*U, strict=True))
        return [affine(self.norm("final", row), columns, bias) for row in stream]

    def treated(self, mlps: int, keep: int) -> Treated:
        """The treated model beside the model itself."""
        kept, changes, logits = 0, [], []
        tokens = self.tensors["contexts.tokens"]
        for s in range(len(tokens)):
            own, other = self.run(s), self.run(s, mlps, keep)
            for place in range(len(tokens[s]) - 1):
                if (s, place) not in self.codes:
                    continue
                pair, label = (own[place], other[place]), tokens[s][place + 1]
                best = [winner(row) for row in pair]
                kept += best[0] == best[1] is not None
                changes.append(loss(pair[1], label) - loss(pair[0], label))
                logits.append(own[place])
        count = len(changes)
        total = sum(changes, Decimal(0))
        return Treated(kept, abs(total) / count, sum(map(abs, changes)) / count, logits)


def winner(logits: Row) -> int | None:
    """The class whose logit is above all others; None where two are equal."""
    top = max(logits)
    return logits.index(top) if logits.count(top) == 1 else None


def loss(logits: Row, label: int) -> Decimal:
    top = max(logits)
    return top + sum((logit - top).exp() for logit in logits).ln() - logits[label]
