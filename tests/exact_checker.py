"""A second verifier of certificates: plain Python, rational numbers, slow, nothing of crossproof.

Written from docs/certificate-format.md and docs/theory. It reads a folder by itself and evaluates
every bound without rounding, so that the verifier can be asked two things: never to certify more,
and hardly to certify less.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

Row = list[Fraction]
Matrix = list[Row]
WIDE = Context(prec=60, Emin=-(10**9), Emax=10**9)
SHORT = Context(prec=28, Emin=-(10**9), Emax=10**9)
CODES = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "I8": "b"}


@dataclass(frozen=True)
class Margin:
    """gap - √square, a lower bound on a margin (or the margin itself, where square is 0)."""

    gap: Fraction
    square: Fraction | int = 0

    @property
    def positive(self) -> bool:
        return self.gap > 0 and self.gap**2 > self.square

    @cached_property
    def decimal(self) -> Decimal:
        root = WIDE.sqrt(_decimal(self.square))
        return WIDE.subtract(_decimal(self.gap), root)


@dataclass
class Exact:
    """What a certificate proves, without rounding."""

    margins: list[list[Margin]] = field(default_factory=list)
    """Of every input (or leaf that has one label): against every other class."""
    truth: list[list[Margin]] = field(default_factory=list)
    """Of every input: the network's own margins."""
    proved: list[int] = field(default_factory=list)
    """Inputs, or leaves, with positive margins."""
    accuracy: Fraction = field(default_factory=lambda: Fraction(0))


def _decimal(number: Fraction | int) -> Decimal:
    return WIDE.divide(Decimal(int(number.numerator)), Decimal(int(number.denominator)))


def cross_entropy(margins: Sequence[Sequence[Margin]]) -> Decimal:
    """Mean of log(1 + Σ e^-μ), to some twenty-five digits."""
    total = Decimal(0)
    for row in margins:
        logits = [Decimal(0), *(SHORT.minus(margin.decimal) for margin in row)]
        terms = [SHORT.exp(SHORT.subtract(logit, max(logits))) for logit in logits]
        total = SHORT.add(total, SHORT.add(max(logits), SHORT.ln(sum(terms, Decimal(0)))))
    return SHORT.divide(total, Decimal(len(margins)))


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """certificate.json, and the tensors as nested lists of rational numbers or integers."""
    content = (folder / "tensors.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    tensors = {}
    for name, entry in json.loads(content[8 : 8 + length]).items():
        start, stop = (8 + length + offset for offset in entry["data_offsets"])
        code = CODES[entry["dtype"]]
        flat = struct.unpack(f"<{math.prod(entry['shape'])}{code}", content[start:stop])
        numbers = list(flat) if code in "qib" else list(map(Fraction, flat))
        tensors[name] = _shaped(numbers, entry["shape"])
    return json.loads((folder / "certificate.json").read_text()), tensors


def _shaped(flat: list[Any], shape: list[int]) -> Any:
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0]
    return [_shaped(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def check(folder: Path) -> Exact:
    """Everything that a certificate proves."""
    header, tensors = read(folder)
    return check_tensors(header["kind"], tensors)


def check_tensors(kind: str, tensors: dict[str, Any]) -> Exact:
    """The same, of tensors as `read` gives them."""
    network = Net(*(tensors[f"network.{k}"] for k in ("W_in", "b_in", "W_out", "b_out", "skip")))
    kinds = {"points": _points, "pairs": _pairs, "boxes": _boxes, "products": _products}
    return kinds[kind](network, tensors)


def rational(value: Any) -> Any:
    """Nested lists of floats as nested lists of rational numbers; integers stay."""
    if isinstance(value, list):
        return [rational(entry) for entry in value]
    return Fraction(value) if isinstance(value, float) else value


def relu(of: Fraction) -> Fraction:
    return max(of, Fraction(0))


def dot(left: Sequence[Fraction], right: Sequence[Fraction]) -> Fraction:
    return sum((a * b for a, b in zip(left, right, strict=True)), Fraction(0))


def through(row: Row, matrix: Matrix) -> Row:
    return [dot(row, column) for column in zip(*matrix, strict=True)]


def plus(*rows: Row) -> Row:
    return [sum(entries, Fraction(0)) for entries in zip(*rows, strict=True)]


def others(label: int, classes: int) -> list[int]:
    return [c for c in range(classes) if c != label]


@dataclass(frozen=True)
class Net:
    W_in: Matrix
    b_in: Row
    W_out: Matrix
    b_out: Row
    skip: Matrix

    def pre(self, x: Row) -> Row:
        return plus(through(x, self.W_in), self.b_in)

    def linear(self, x: Row) -> Row:
        return plus(through(x, self.skip), self.b_out)

    def margins(self, x: Row, label: int) -> list[Margin]:
        """The network's own, at one input."""
        logits = plus(self.linear(x), through([relu(z) for z in self.pre(x)], self.W_out))
        return [Margin(logits[label] - logits[c]) for c in others(label, len(logits))]


def _points(net: Net, tensors: dict[str, Any]) -> Exact:
    found, G = Exact(), [through(row, net.W_in) for row in tensors["dictionary.atoms"]]
    base = net.pre(tensors["dictionary.bias"])
    offsets, labels = tensors["proof.offsets"], tensors["domain.labels"]
    for t, (x, label) in enumerate(zip(tensors["domain.inputs"], labels, strict=True)):
        here = slice(offsets[t], offsets[t + 1])
        latents = list(
            zip(tensors["proof.indices"][here], tensors["proof.values"][here], strict=True)
        )
        straight = net.linear(x)
        models: list[list[tuple[Fraction, Fraction, Fraction]]] = [[], []]
        for n, z in enumerate(net.pre(x)):
            p = sorted((a * G[h][n] for h, a in latents), key=lambda part: -abs(part))
            for model, made in zip(models, _neuron(base[n], p, z), strict=True):
                model.append(made)
        row = []
        for c in others(label, len(straight)):
            bounds = []
            for model in models:
                margin = straight[label] - straight[c]
                for (hidden, less, more), out in zip(model, net.W_out, strict=True):
                    gap = out[label] - out[c]
                    margin += gap * hidden - (gap * less if gap > 0 else -gap * more)
                bounds.append(margin)
            row.append(Margin(max(bounds)))
        found.margins.append(row)
        found.truth.append(net.margins(x, label))
    return _counted(found)


def _neuron(base: Fraction, p: Row, z: Fraction) -> Iterator[tuple[Fraction, Fraction, Fraction]]:
    """Activation, and room below and above it: dominant (T1), then additive (T2.2, signed)."""
    whole = base + sum(p)
    kept = base + (p[0] if p else 0)
    error = abs(z - whole)
    room = error + abs(sum(p[1:])) if max(z, whole, kept) > 0 else Fraction(0)
    yield relu(kept), room, room
    rest = error if max(z, whole) > 0 else Fraction(0)
    less = more = rest
    so_far = p[0] if p else Fraction(0)
    hull = base + sum(min(q, 0) for q in p), base + sum(max(q, 0) for q in p)
    for q in p[1:] if hull[0] < 0 < hull[1] else []:
        charge = min(abs(so_far), abs(q))
        if (so_far > 0) == (q > 0):
            more += charge
        else:
            less += charge
        so_far += q
    yield relu(base) + sum(relu(base + q) - relu(base) for q in p), less, more


def _pairs(net: Net, tensors: dict[str, Any]) -> Exact:
    p = len(tensors["domain.left"])
    table = [[(a + b) % p for b in range(p)] for a in range(p)]
    other = [[(a - b) % p for b in range(p)] for a in range(p)]
    return _of_pairs(net, tensors, table, other, lambda row, owner: _block(row, owner, p))


def _products(net: Net, tensors: dict[str, Any]) -> Exact:
    table = tensors["domain.table"]
    elements = range(len(table))
    neutral = next(e for e in elements if all(table[e][a] == a for a in elements))
    inverse = [next(b for b in elements if table[a][b] == neutral) for a in elements]
    other = [[table[a][inverse[b]] for b in elements] for a in elements]
    atoms = list(zip(tensors["dictionary.atoms"], tensors["proof.blocks"], strict=True))

    def block(row: Row, owner: int) -> Row:
        mine = [atom for atom, number in atoms if number == owner]
        fitted = [[dot(row, atom) * value for value in atom] for atom in mine]
        return plus(*fitted) if fitted else [Fraction(0)] * len(row)

    return _of_pairs(net, tensors, table, other, block)


def _of_pairs(
    net: Net,
    tensors: dict[str, Any],
    table: list[list[int]],
    other: list[list[int]],
    block: Callable[[Row, int], Row],
) -> Exact:
    """All pairs: their label is in `table`, and `other` is what the last effect is of."""
    found, p = Exact(), len(table)
    scale = [Fraction(2) ** s for s in tensors["proof.scale"]]
    rows = [[o / s for o in row] for row, s in zip(net.W_out, scale, strict=True)]
    blocks = list(map(block, rows, tensors["proof.owners"]))
    left_over = [
        [r - b for r, b in zip(*pair, strict=True)] for pair in zip(rows, blocks, strict=True)
    ]
    columns = list(zip(*left_over, strict=True))
    names = ("left", "right", "sum", "difference")
    for a, left in enumerate(tensors["domain.left"]):
        for b, right in enumerate(tensors["domain.right"]):
            x, label = plus(left, right), table[a][b]
            active = [relu(z) * s for z, s in zip(net.pre(x), scale, strict=True)]
            index = zip(names, (a, b, label, other[a][b]), strict=True)
            additive = plus(*(tensors[f"proof.effect_{name}"][i] for name, i in index))
            rest = [h - e for h, e in zip(active, additive, strict=True)]
            logits = plus(net.linear(x), through(additive, rows), through(rest, blocks))
            size = dot(rest, rest)
            row = []
            for c in others(label, p):
                apart = [y - o for y, o in zip(columns[label], columns[c], strict=True)]
                row.append(Margin(logits[label] - logits[c], size * dot(apart, apart)))
            found.margins.append(row)
            found.truth.append(net.margins(x, label))
    return _counted(found)


def _block(row: Row, owner: int, p: int) -> Row:
    """The row's part on one frequency; waves are rounded, which any numbers may be."""
    part = [Fraction(0)] * p
    if owner:
        for wave in (math.cos, math.sin):
            basis = [Fraction(wave(2 * math.pi * (owner * c % p) / p)) for c in range(p)]
            factor = dot(row, basis) / max(dot(basis, basis), 1)
            part = [q + factor * v for q, v in zip(part, basis, strict=True)]
    return part


def _counted(found: Exact) -> Exact:
    found.proved = [t for t, row in enumerate(found.margins) if all(m.positive for m in row)]
    found.accuracy = Fraction(len(found.proved), len(found.margins))
    return found


def _boxes(net: Net, tensors: dict[str, Any]) -> Exact:
    found, codes, leaf = Exact(), iter(tensors["proof.tree"]), 0
    sets = tensors["domain.active_sets"]
    for number, active in enumerate(sets):
        low = [float(tensors["domain.low"][h]) for h in active]
        high = [float(tensors["domain.high"][h]) for h in active]
        whole = list(zip(low, high, strict=True))
        stack = [whole]
        while stack:
            box, code = stack.pop(), next(codes)
            if code < 0:
                bottom, top = box[-1 - code]
                for half in ((bottom + top) / 2, top), (bottom, (bottom + top) / 2):
                    stack.append([*box[: -1 - code], half, *box[-code:]])
                continue
            holds = code > 0 and BoxChecker(net, tensors, number, box).holds(code, found)
            if holds:
                found.proved.append(leaf)
                shares = zip(box, whole, strict=True)
                found.accuracy += math.prod(map(_share, shares), start=Fraction(1, len(sets)))
            leaf += 1
    return found


def _share(pair: tuple[tuple[float, float], tuple[float, float]]) -> Fraction:
    (low, high), (bottom, top) = pair
    whole = Fraction(top) - Fraction(bottom)
    return (Fraction(high) - Fraction(low)) / whole if whole else Fraction(1)


class BoxChecker:
    """The three bounds of one box."""

    def __init__(
        self, net: Net, tensors: dict[str, Any], number: int, box: list[tuple[float, float]]
    ) -> None:
        self.net, self.active = net, tensors["domain.active_sets"][number]
        self.box = [(Fraction(low), Fraction(high)) for low, high in box]
        self.scores = [tensors["domain.readout"][h] for h in self.active]
        atoms, own = tensors["domain.atoms"], tensors["dictionary.atoms"]
        self.G = [through(atoms[h], net.W_in) for h in self.active]
        self.S = [through(atoms[h], net.skip) for h in self.active]
        self.base, self.constant = (f(tensors["domain.bias"]) for f in (net.pre, net.linear))
        index = tensors["proof.latent_index"][number]
        self.own_G = [through(own[h], net.W_in) for h in index]
        self.own_S = [through(own[h], net.skip) for h in index]
        self.own_base = net.pre(tensors["dictionary.bias"])
        self.own_constant = net.linear(tensors["dictionary.bias"])
        self.slopes = list(zip(*tensors["proof.latent_slopes"][number], strict=True))  # [M, K]
        self.offset = tensors["proof.latent_offset"][number]
        self.ranges = [
            (o + self.least(s), o + self.most(s))
            for o, s in zip(self.offset, self.slopes, strict=True)
        ]
        self.pre = [
            (b + self.least(g), b + self.most(g))
            for b, g in zip(self.base, zip(*self.G, strict=True), strict=True)
        ]

    def least(self, slopes: Sequence[Fraction]) -> Fraction:
        ends = zip(slopes, self.box, strict=True)
        return sum((min(s * low, s * high) for s, (low, high) in ends), Fraction(0))

    def most(self, slopes: Sequence[Fraction]) -> Fraction:
        return -self.least([-s for s in slopes])

    def holds(self, code: int, found: Exact) -> bool:
        label = self.label()
        if label is None:
            return False
        bound = {1: self.interval, 2: self.additive, 3: self.linear}[code]
        row = [Margin(bound(label, c)) for c in others(label, len(self.constant))]
        found.margins.append(row)
        return all(margin.positive for margin in row)

    def label(self) -> int | None:
        """The label, if it is the same everywhere in the box."""
        classes = len(self.constant)
        for label in range(classes):
            gaps = [[row[label] - row[c] for row in self.scores] for c in others(label, classes)]
            if all(self.least(gap) > 0 for gap in gaps):
                return label
        return None

    def gaps(self, label: int, c: int) -> Row:
        return [row[label] - row[c] for row in self.net.W_out]

    def worst(self, label: int, c: int, ends: list[tuple[Fraction, Fraction]]) -> Fraction:
        pairs = zip(self.gaps(label, c), ends, strict=True)
        return sum((min(g * low, g * high) for g, (low, high) in pairs), Fraction(0))

    def interval(self, label: int, c: int) -> Fraction:
        straight = self.least([s[label] - s[c] for s in self.S])
        ends = [(relu(low), relu(high)) for low, high in self.pre]
        return self.constant[label] - self.constant[c] + straight + self.worst(label, c, ends)

    def linear(self, label: int, c: int) -> Fraction:
        margin = self.constant[label] - self.constant[c]
        slopes = [s[label] - s[c] for s in self.S]
        for n, gap in enumerate(self.gaps(label, c)):
            low, high = min(self.pre[n][0], Fraction(0)), max(self.pre[n][1], Fraction(0))
            if gap > 0:
                slope, lift = Fraction(low == 0 or 0 < high >= -low), Fraction(0)
            else:
                slope = high / (high - low) if high > low else Fraction(0)
                lift = -slope * low
            margin += gap * (slope * self.base[n] + lift)
            slopes = [s + gap * slope * g[n] for s, g in zip(slopes, self.G, strict=True)]
        return margin + self.least(slopes)

    def additive(self, label: int, c: int) -> Fraction:
        gaps = self.gaps(label, c)
        margin = self.own_constant[label] - self.own_constant[c]
        margin += dot(gaps, [relu(b) for b in self.own_base])
        for g, s, ends in zip(self.own_G, self.own_S, self.ranges, strict=True):
            margin += self.curve(g, s[label] - s[c], gaps, ends)
        own = [s[label] - s[c] for s in self.own_S]
        start = self.constant[label] - self.constant[c]
        start -= self.own_constant[label] - self.own_constant[c]
        slopes, start = self.unexplained([s[label] - s[c] for s in self.S], own, start)
        margin += start + self.least(slopes)
        return margin + self.worst(label, c, [self.room(n) for n in range(len(gaps))])

    def curve(
        self, g: Row, straight: Fraction, gaps: Row, ends: tuple[Fraction, Fraction]
    ) -> Fraction:
        """The least of a straight line and hinges: at an end or at a kink."""
        kinks = [-b / slope for b, slope in zip(self.own_base, g, strict=True) if slope]
        places = [*ends, *(kink for kink in kinks if ends[0] < kink < ends[1])]
        return min(
            at * straight
            + sum(
                gap * (relu(b + at * slope) - relu(b))
                for gap, b, slope in zip(gaps, self.own_base, g, strict=True)
            )
            for at in places
        )

    def unexplained(
        self, slopes: Sequence[Fraction], own: Sequence[Fraction], start: Fraction
    ) -> tuple[Row, Fraction]:
        """What the latents do not reconstruct of an affine function of the activations."""
        rest = [
            s - sum(o * latent[j] for o, latent in zip(own, self.slopes, strict=True))
            for j, s in enumerate(slopes)
        ]
        return rest, start - dot(own, self.offset)

    def room(self, n: int) -> tuple[Fraction, Fraction]:
        """How far below and above the additive model a neuron may be."""
        base, own = self.own_base[n], [g[n] for g in self.own_G]
        at = [(low * g, high * g) for g, (low, high) in zip(own, self.ranges, strict=True)]
        bottom = base + sum(min(*ends, Fraction(0)) for ends in at)
        top = base + sum(max(*ends, Fraction(0)) for ends in at)
        sizes = [max(map(abs, ends)) for ends in at]
        charge = Fraction(0) if bottom >= 0 or top <= 0 else sum(sizes, Fraction(0)) - max(sizes)
        down, up = -charge, charge
        if len(at) == 2 and all(low >= 0 for low, _ in self.ranges):
            corners = [
                relu(base + x + y) - relu(base + x) - relu(base + y) + relu(base)
                for x, y in zip(*at, strict=True)
            ]
            down, up = min(corners), max(corners)
        slopes, start = self.unexplained([g[n] for g in self.G], own, self.base[n] - base)
        if top <= 0 and self.pre[n][1] <= 0:
            return down, up
        return (down + min(start + self.least(slopes), Fraction(0)),
                up + max(start + self.most(slopes), Fraction(0)))  # fmt: skip
