"""Final inequalities derived again in ball arithmetic (python-flint), group by group.

Written apart from the float64 verifier, from the theorems: what it shares is the reading of the
certificate. Products and sums of 128 bits carry their own error, so that "> 0" is a proof.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crossproof.proof.certificate.format import CertificateError
from crossproof.proof.certificate.verifier import pairs, points
from crossproof.proof.certificate.verifier.arithmetic import Array, Indices

try:
    import flint
except ImportError:  # asked for by name only
    flint = None  # type: ignore[assignment]

BITS, SAMPLE, BUDGET = 128, 64, 20_000_000
"""Precision; how many groups are derived again at least, and for how many operations."""
Ball = Any
Balls = list[Any]


def ready() -> None:
    """Sets the precision; CertificateError if python-flint is not installed."""
    if flint is None:
        raise CertificateError("Ball arithmetic needs python-flint: `pip install python-flint`.")
    flint.ctx.prec = BITS


def sample(count: int, each: int) -> Indices:
    """All of `count` groups, as far as BUDGET goes at `each` operations a group; else a draw.

    The draw is fresh every time: nobody who writes a certificate knows which groups are checked.
    """
    most = max(SAMPLE, BUDGET // max(each, 1))
    return np.sort(np.random.default_rng().choice(count, min(count, most), replace=False))


def ball(number: float | int) -> Ball:
    """A float64 or a whole number, exactly."""
    return flint.arb(float(number))


def vector(numbers: Array) -> Balls:
    """float64 numbers, exactly."""
    return [flint.arb(number) for number in numbers.tolist()]


def matrix(numbers: Array) -> Any:
    """A matrix of float64 numbers, exactly."""
    return flint.arb_mat(numbers.tolist())


def joined(rows: list[Balls]) -> Any:
    """A matrix of rows."""
    return flint.arb_mat(rows)


def row(of: Any, index: int = 0) -> Balls:
    """One row of a matrix."""
    return [of[index, column] for column in range(of.ncols())]


def times(left: Balls, right: Any) -> Balls:
    """Row vector times matrix."""
    return row(flint.arb_mat([left]) * right)


def plus(*vectors: Balls) -> Balls:
    """Sum of vectors."""
    return [sum(entries, flint.arb(0)) for entries in zip(*vectors, strict=True)]


def relu(of: Ball) -> Ball:
    """max(of, 0)."""
    return of.max(flint.arb(0))


def total(of: Sequence[Ball]) -> Ball:
    """Sum of balls."""
    return sum(of, flint.arb(0))


def insist(margins: Balls, label: int, what: str) -> None:
    """Raises CertificateError unless every margin but the label's is certainly positive."""
    for other, margin in enumerate(margins):
        if other != label and not margin > 0:
            raise CertificateError(
                f"Ball arithmetic does not confirm {what} against class {other}: the margin's "
                f"lower bound is {margin.str(6)}."
            )


def insist_entropy(margins: Balls, label: int, bound: float, what: str) -> None:
    """Raises CertificateError unless `bound` is certainly above the margins' cross-entropy."""
    if not bound < 1e6:  # so much is no claim; and no exponential is out of reach below it
        return
    others = [(-margin).exp() for c, margin in enumerate(margins) if c != label]
    if not (1 + total(others)).log() <= bound:
        raise CertificateError(f"Ball arithmetic does not confirm the cross-entropy of {what}.")


def check_points(problem: points.PointsProblem, worst: Array, entropy: Array) -> int:
    """Derives margins and cross-entropies of points again; how many."""
    ready()
    (inputs, width), classes = problem.weights.W_in.shape, problem.weights.W_out.shape[1]
    each = (width + classes) * inputs + width * (8 * problem.widest + 6 * classes)
    chosen, margins_of = sample(len(worst), each), point_margins(problem)
    for point in chosen.tolist():
        margins, label = margins_of(point), int(problem.labels[point])
        if worst[point] > 0:
            insist(margins, label, f"point {point}")
        insist_entropy(margins, label, float(entropy[point]), f"point {point}")
    return len(chosen)


def point_margins(problem: points.PointsProblem) -> Callable[[int], Balls]:
    """Lower bounds on the margins of a point, 0 at its label."""
    weights = problem.weights
    W_in, W_out, skip = matrix(weights.W_in), matrix(weights.W_out), matrix(weights.skip)
    G = matrix(problem.decoder) * W_in
    b_in = vector(weights.b_in)
    base = plus(times(vector(problem.bias), W_in), b_in)
    rows = [row(W_out, n) for n in range(W_out.nrows())]

    def margins_of(point: int) -> Balls:
        x, label = vector(problem.inputs[point]), int(problem.labels[point])
        z = plus(times(x, W_in), b_in)
        straight = plus(times(x, skip), vector(weights.b_out))
        mine = slice(problem.offsets[point], problem.offsets[point + 1])
        indices, values = problem.indices[mine].tolist(), vector(problem.values[mine])
        latents = list(zip(indices, values, strict=True))
        neurons = [_neuron(base[n], [a * G[h, n] for h, a in latents], z[n]) for n in range(len(z))]
        models = zip(*neurons, strict=True)
        bounds = [_functional(straight, list(model), rows, label) for model in models]
        return [first.max(second) for first, second in zip(*bounds, strict=True)]

    return margins_of


def _functional(
    straight: Balls, model: list[tuple[Ball, Ball, Ball]], rows: list[Balls], label: int
) -> Balls:
    """Margins of a model of (activation, room below, room above) a neuron, at their worst."""
    margins = []
    for other in range(len(straight)):
        margin = straight[label] - straight[other]
        for (activation, less, more), out in zip(model, rows, strict=True):
            gap = out[label] - out[other]
            margin += gap * activation - relu(gap) * less - relu(-gap) * more
        margins.append(margin)
    return margins


Room = tuple[Ball, Ball, Ball]


def _neuron(base: Ball, p: Balls, z: Ball) -> tuple[Room, Room]:
    """Activation and room of one neuron in the dominant (T1) and the additive model (T2.2)."""
    everything = base + total(p)
    residual = abs(z - everything)
    p = sorted(p, key=lambda part: -abs(float(part.mid())))
    first = p[0] if p else ball(0)
    others = total(p[1:])
    kept = base + first
    off = z <= 0 and everything <= 0
    dominant = ball(0) if off and kept <= 0 else residual + abs(others)
    low = base + total([part.min(ball(0)) for part in p])
    high = base + total([part.max(ball(0)) for part in p])
    less, more, so_far = ball(0), ball(0), first
    for part in p[1:] if not (low >= 0 or high <= 0) else []:
        charge = abs(so_far).min(abs(part))
        less += ball(0) if so_far * part >= 0 else charge
        more += ball(0) if so_far * part <= 0 else charge
        so_far += part
    rest = ball(0) if off else residual
    hidden = relu(base) + total([relu(base + part) - relu(base) for part in p])
    return (relu(kept), dominant, dominant), (hidden, less + rest, more + rest)


def check_pairs(problem: pairs.PairsProblem, worst: Array, entropy: Array) -> int:
    """Derives margins and cross-entropies of pairs again; how many."""
    ready()
    (inputs, width), p = problem.weights.W_in.shape, len(problem.left)
    chosen, margins_of = (
        sample(worst.size, (inputs + 3 * width) * (width + p)),
        pair_margins(problem),
    )
    for a, b in zip(*(i.tolist() for i in np.divmod(chosen, p)), strict=True):
        margins, label = margins_of(a, b), (a + b) % p
        if worst[a, b] > 0:
            insist(margins, label, f"pair ({a}, {b})")
        insist_entropy(margins, label, float(entropy[a, b]), f"pair ({a}, {b})")
    return len(chosen)


def pair_margins(problem: pairs.PairsProblem) -> Callable[[int, int], Balls]:
    """Lower bounds on the margins of a pair, 0 at its label."""
    weights, p = problem.weights, len(problem.left)
    W_in, W_out, skip = matrix(weights.W_in), matrix(weights.W_out), matrix(weights.skip)
    blocks = _blocks(problem)
    rest = W_out - blocks
    columns = [[rest[n, c] for n in range(rest.nrows())] for c in range(p)]
    distances: dict[int, Balls] = {}

    def margins_of(a: int, b: int) -> Balls:
        label, x = (a + b) % p, plus(vector(problem.left[a]), vector(problem.right[b]))
        active = [relu(z) for z in plus(times(x, W_in), vector(weights.b_in))]
        where = (a, b, label, (a - b) % p)
        additive = plus(*(vector(e[i]) for e, i in zip(problem.effects, where, strict=True)))
        interaction = [h - e for h, e in zip(active, additive, strict=True)]
        outputs = times(additive, W_out), times(interaction, blocks)
        logits = plus(times(x, skip), vector(weights.b_out), *outputs)
        size = length(interaction)
        if label not in distances:
            distances[label] = [_distance(columns[label], column) for column in columns]
        far = distances[label]
        return [logits[label] - logits[c] - size * far[c] for c in range(p)]

    return margins_of


def length(of: Balls) -> Ball:
    """An upper bound on the Euclidean norm; a ball around 0 has no square root."""
    return total([entry * entry for entry in of]).upper().sqrt()


def _distance(left: Balls, right: Balls) -> Ball:
    return length([x - y for x, y in zip(left, right, strict=True)])


def _blocks(problem: pairs.PairsProblem) -> Any:
    """The owned output rows on their frequencies, [N, V]; zero for neurons that nothing owns."""
    rows, p, blocks = problem.weights.W_out, len(problem.left), []
    for n, frequency in enumerate(problem.owners.tolist()):
        if frequency:
            basis = pairs.waves(p, frequency)
            fitted = rows[n] @ basis.T / (basis * basis).sum(axis=1)
            blocks.append(times(vector(fitted), matrix(basis)))
        else:
            blocks.append([ball(0)] * p)
    return joined(blocks)
