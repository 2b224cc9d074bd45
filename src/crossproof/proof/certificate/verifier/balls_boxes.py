"""The three bounds of a box derived again in ball arithmetic, one box at a time."""

from __future__ import annotations

from functools import reduce

import numpy as np

from crossproof.proof.certificate.format import CertificateError
from crossproof.proof.certificate.verifier import boxes
from crossproof.proof.certificate.verifier.arithmetic import Array, Indices
from crossproof.proof.certificate.verifier.balls import (
    Ball,
    Balls,
    ball,
    insist,
    matrix,
    plus,
    ready,
    relu,
    row,
    sample,
    times,
    total,
    vector,
)


def check_boxes(problem: boxes.BoxesProblem, proved: Indices) -> int:
    """Derives labels, margins and masses of proved leaves (their numbers) again; how many."""
    ready()
    (width, classes), each = problem.weights.W_out.shape, problem.latents.index.shape[1]
    chosen = proved[sample(len(proved), width * classes * (each + 1) * (width + 4))]
    leaves, box = boxes.leaves(problem), _Box(problem)
    for leaf in chosen.tolist():
        code, number = int(leaves.code[leaf]), int(leaves.sets[leaf])
        box.enter(number, leaves.low[leaf], leaves.high[leaf])
        label = box.label()
        bound = {"interval": box.interval, "linear": box.linear, "additive": box.additive}
        insist(bound[boxes.BOUNDS[code - 1]](label), label, f"leaf {leaf}")
        if not box.mass() >= leaves.mass[leaf]:
            raise CertificateError(f"Ball arithmetic does not confirm the mass of leaf {leaf}.")
    return len(chosen)


class _Box:
    """One box of one active set; everything affine in the K true activations."""

    def __init__(self, problem: boxes.BoxesProblem) -> None:
        self.problem, weights, domain = problem, problem.weights, problem.domain
        W_in, self.W_out, skip = (matrix(m) for m in (weights.W_in, weights.W_out, weights.skip))
        decoder, bias = matrix(domain.decoder), vector(domain.bias)
        self.G, self.S = decoder * W_in, decoder * skip
        self.base = plus(times(bias, W_in), vector(weights.b_in))
        self.constant = plus(times(bias, skip), vector(weights.b_out))
        own, start = matrix(problem.latents.decoder), vector(problem.latents.bias)
        self.own_G, self.own_S = own * W_in, own * skip
        self.own_base = plus(times(start, W_in), vector(weights.b_in))
        self.own_constant = plus(times(start, skip), vector(weights.b_out))
        self.rows = [row(self.W_out, n) for n in range(self.W_out.nrows())]

    def enter(self, number: int, low: Array, high: Array) -> None:
        """Moves to another box."""
        self.number, self.low, self.high = number, vector(low), vector(high)
        self.active = self.problem.domain.active_sets[number].tolist()
        self.centre = low + high  # twice: the label is the same

    def mass(self) -> Ball:
        """The box's probability."""
        share, domain = ball(1), self.problem.domain
        for h, low, high in zip(self.active, self.low, self.high, strict=True):
            whole = ball(domain.high[h]) - ball(domain.low[h])
            share = share * ((high - low) / whole) if whole > 0 else share
        return share / len(domain.active_sets)

    def least(self, slopes: Balls) -> Ball:
        """min of Σ_j slopes_j a_j over the box."""
        ends = zip(slopes, self.low, self.high, strict=True)
        return total([(slope * low).min(slope * high) for slope, low, high in ends])

    def most(self, slopes: Balls) -> Ball:
        """max of the same."""
        return -self.least([-slope for slope in slopes])

    def label(self) -> int:
        """The label, which must be the same everywhere in the box."""
        readout = self.problem.domain.readout[self.active]
        label = int(np.argmax(self.centre @ readout))
        scores = [vector(readout[:, c]) for c in range(readout.shape[1])]
        gaps = [[y - c for y, c in zip(scores[label], s, strict=True)] for s in scores]
        insist([self.least(gap) for gap in gaps], label, "that the label is constant on a box")
        return label

    def straight(self, label: int, other: int) -> Balls:
        """Slopes of the linear path's margin."""
        return [self.S[h, label] - self.S[h, other] for h in self.active]

    def neurons(self) -> list[tuple[Balls, Ball, Ball]]:
        """Slopes, least and largest pre-activation of every neuron."""
        ranges = []
        for n, base in enumerate(self.base):
            slopes = [self.G[h, n] for h in self.active]
            ranges.append((slopes, base + self.least(slopes), base + self.most(slopes)))
        return ranges

    def interval(self, label: int) -> Balls:
        """The interval bound."""
        ends = [(relu(low), relu(high)) for _, low, high in self.neurons()]
        return [self._between(label, other, ends) for other in range(len(self.constant))]

    def _between(self, label: int, other: int, ends: list[tuple[Ball, Ball]]) -> Ball:
        margin = self.constant[label] - self.constant[other]
        return margin + self.least(self.straight(label, other)) + self._output(label, other, ends)

    def _output(self, label: int, other: int, ends: list[tuple[Ball, Ball]]) -> Ball:
        gaps = [out[label] - out[other] for out in self.rows]
        pairs = zip(gaps, ends, strict=True)
        return total([(gap * low).min(gap * high) for gap, (low, high) in pairs])

    def linear(self, label: int) -> Balls:
        """The bound by affine functions, with the same slopes as in float64 up to rounding."""
        neurons, margins = self.neurons(), []
        for other in range(len(self.constant)):
            margin = self.constant[label] - self.constant[other]
            slopes = self.straight(label, other)
            for n, (direction, low, high) in enumerate(neurons):
                gap = self.rows[n][label] - self.rows[n][other]
                slope, lift = _relaxed(low, high, bool(gap > 0))
                margin += gap * (slope * self.base[n] + lift)
                slopes = [s + gap * slope * d for s, d in zip(slopes, direction, strict=True)]
            margins.append(margin + self.least(slopes))
        return margins

    def additive(self, label: int) -> Balls:
        """The additive bound through the dictionary's latents."""
        latents, number = self.problem.latents, self.number
        slopes = [vector(latents.slopes[number, :, m]) for m in range(latents.index.shape[1])]
        offset, index = vector(latents.offset[number]), latents.index[number].tolist()
        ranges = [
            (o + self.least(s), o + self.most(s)) for o, s in zip(offset, slopes, strict=True)
        ]
        ends = [
            plus(*pair)
            for pair in zip(
                self._interactions(index, ranges),
                self._residuals(index, slopes, offset, ranges),
                strict=True,
            )
        ]
        pairs = [(low, high) for low, high in ends]
        resting = times([relu(b) for b in self.own_base], self.W_out)
        margins = []
        for other in range(len(self.constant)):
            margin = self.own_constant[label] - self.own_constant[other]
            margin += resting[label] - resting[other]
            for h, (low, high) in zip(index, ranges, strict=True):
                margin += self._curve(h, low, high, label, other)
            margin += self._skip_residual(index, slopes, offset, label, other)
            margins.append(margin + self._output(label, other, pairs))
        return margins

    def _curve(self, h: int, low: Ball, high: Ball, label: int, other: int) -> Ball:
        """The least margin of a latent's curve, at its ends and at all kinks between."""
        places = [low, high]
        for n, base in enumerate(self.own_base):
            if not self.own_G[h, n].contains(ball(0)):
                kink = -base / self.own_G[h, n]
                if not (kink <= low or kink >= high):
                    places.append(kink)
        straight = self.own_S[h, label] - self.own_S[h, other]
        values = []
        for at in places:
            value = at * straight
            for n, base in enumerate(self.own_base):
                gap = self.rows[n][label] - self.rows[n][other]
                value += gap * (relu(base + at * self.own_G[h, n]) - relu(base))
            values.append(value)
        return reduce(lambda one, other: one.min(other), values)

    def _interactions(self, index: list[int], ranges: list[tuple[Ball, Ball]]) -> list[Balls]:
        enclosures = []
        for n, base in enumerate(self.own_base):
            at = [
                (low * self.own_G[h, n], high * self.own_G[h, n])
                for h, (low, high) in zip(index, ranges, strict=True)
            ]
            bottom = base + total([a.min(b).min(ball(0)) for a, b in at])
            top = base + total([a.max(b).max(ball(0)) for a, b in at])
            size = [abs(a).max(abs(b)) for a, b in at]
            largest = ball(0)
            for part in size:
                largest = largest.max(part)
            charge = ball(0) if bottom >= 0 or top <= 0 else total(size) - largest
            corners = [_second_difference(base, [ends[i] for ends in at]) for i in (0, 1)]
            if len(index) == 2 and all(low >= 0 for low, _ in ranges):
                enclosures.append([corners[0].min(corners[1]), corners[0].max(corners[1])])
            else:
                enclosures.append([-charge, charge])
        return enclosures

    def _residuals(
        self, index: list[int], slopes: list[Balls], offset: Balls, ranges: list[tuple[Ball, Ball]]
    ) -> list[Balls]:
        ends = []
        for n, (direction, _, high) in enumerate(self.neurons()):
            own = [self.own_G[h, n] for h in index]
            start = self.base[n] - self.own_base[n]
            rest, start = _unexplained(direction, own, slopes, offset, start)
            top = self.own_base[n]
            for g, (low, up) in zip(own, ranges, strict=True):
                top += (g * low).max(g * up).max(ball(0))
            if top <= 0 and high <= 0:
                ends.append([ball(0), ball(0)])
            else:
                low, up = start + self.least(rest), start + self.most(rest)
                ends.append([low.min(ball(0)), up.max(ball(0))])
        return ends

    def _skip_residual(
        self, index: list[int], slopes: list[Balls], offset: Balls, label: int, other: int
    ) -> Ball:
        own = [self.own_S[h, label] - self.own_S[h, other] for h in index]
        start = self.constant[label] - self.constant[other]
        start -= self.own_constant[label] - self.own_constant[other]
        rest, start = _unexplained(self.straight(label, other), own, slopes, offset, start)
        return start + self.least(rest)


def _unexplained(
    direction: Balls, own: Balls, slopes: list[Balls], offset: Balls, start: Ball
) -> tuple[Balls, Ball]:
    """What latents do not reconstruct of one affine function: slopes and constant."""
    for g, slope, constant in zip(own, slopes, offset, strict=True):
        direction = [d - g * s for d, s in zip(direction, slope, strict=True)]
        start = start - g * constant
    return direction, start


def _second_difference(base: Ball, parts: Balls) -> Ball:
    alone = total([relu(base + part) - relu(base) for part in parts])
    return relu(base + total(parts)) - relu(base) - alone


def _relaxed(low: Ball, high: Ball, helps: bool) -> tuple[Ball, Ball]:
    """Slope and offset of the affine function below (where the neuron helps) or above relu."""
    if low >= 0:
        return ball(1), ball(0)
    if high <= 0:
        return ball(0), ball(0)
    if helps:
        return ball(1 if float(high.mid()) >= -float(low.mid()) else 0), ball(0)
    if not (low < 0 < high):
        raise CertificateError("Ball arithmetic cannot tell a neuron's sign at the edge of a box.")
    slope = high / (high - low)
    return slope, -slope * low
