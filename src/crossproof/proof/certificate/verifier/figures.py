"""Figures of each kind of certificate about a network, as computed by the verifier alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

import numpy as np

from crossproof.proof.certificate.format import Certificate, Limits
from crossproof.proof.certificate.result import Subject
from crossproof.proof.certificate.verifier import (
    attention,
    balls,
    balls_attention,
    balls_boxes,
    balls_products,
    boxes,
    pairs,
    points,
    products,
    sequences,
)
from crossproof.proof.certificate.verifier.arithmetic import UNIT, UP, Arithmetic, Array


@dataclass(frozen=True)
class Figures:
    """What is proved, and what a reader must know to weigh it."""

    subject: Subject
    accuracy: float
    cross_entropy: float | None
    right: int
    majority: float
    label_entropy: float | None
    brute_force: int | None
    balls: int
    ball_groups: int
    by_bound: dict[str, float] = field(default_factory=dict)


def _points(arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits) -> Figures:
    problem = points.read(certificate, limits)
    count, (width, classes) = len(problem.labels), problem.weights.W_out.shape
    worst, entropy = np.empty(count), np.empty(count)
    for rows, margin, bound in points.evaluate(arithmetic, problem):
        worst[rows], entropy[rows] = margin, bound
    labels = np.bincount(problem.labels)
    shares = labels[labels > 0] / count
    inputs = {hashlib.sha256(row + 0.0).digest() for row in problem.inputs}  # -0.0 is 0.0
    return Figures(
        subject=Subject(inputs=count, distinct=len(inputs)),
        accuracy=_share(worst),
        cross_entropy=_mean(entropy),
        right=int((worst > 0).sum()),
        majority=int(labels.max()) / count,
        label_entropy=abs(math.fsum(shares * np.log(shares))),
        brute_force=count * forward(problem.inputs.shape[1], width, classes),
        balls=balls.check_points(problem, worst, entropy) if arb else 0,
        ball_groups=count,
    )


def _pairs(arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits) -> Figures:
    problem = pairs.read(certificate, limits)
    found = pairs.evaluate(arithmetic, problem)
    balls_of = partial(balls.check_pairs, problem) if arb else None
    count = certificate.sizes["p"] ** 2
    return _of_pairs(certificate, found, balls_of, Subject(count, modulus=certificate.sizes["p"]))


def _products(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> Figures:
    problem = products.read(certificate, limits)
    found = products.evaluate(arithmetic, problem)
    balls_of = partial(balls_products.check_products, problem) if arb else None
    count = certificate.sizes["p"] ** 2
    return _of_pairs(certificate, found, balls_of, Subject(count, elements=certificate.sizes["p"]))


def _of_pairs(
    certificate: Certificate,
    found: Iterator[tuple[int, Array, Array]],
    balls_of: Callable[[Array, Array], int] | None,
    subject: Subject,
) -> Figures:
    """Figures of all p² pairs, where every label is as frequent as any."""
    D, N, p = (certificate.sizes[letter] for letter in "DNp")
    worst, entropy = np.empty((2, p, p))
    for a, margin, bound in found:
        worst[a], entropy[a] = margin, bound
    skips = bool(certificate.tensors["network.skip"].any())
    return Figures(
        subject=subject,
        accuracy=_share(worst),
        cross_entropy=_mean(entropy),
        right=int((worst > 0).sum()),
        majority=1 / p,
        label_entropy=math.log(p),
        brute_force=brute_force_pairs(p, D, N, skips),
        balls=balls_of(worst, entropy) if balls_of else 0,
        ball_groups=p * p,
    )


def _boxes(arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits) -> Figures:
    problem = boxes.read(certificate, limits)
    proved, sizes = boxes.evaluate(arithmetic, problem), certificate.sizes
    count = int((problem.tree >= 0).sum())
    return Figures(
        subject=Subject(sets=sizes["G"], active=sizes["K"], boxes=count),
        accuracy=proved.accuracy,
        cross_entropy=None,
        right=len(proved.leaves),
        majority=proved.majority,
        label_entropy=None,
        brute_force=None,
        balls=balls_boxes.check_boxes(problem, proved.leaves) if arb else 0,
        ball_groups=len(proved.leaves),
        by_bound=proved.by_bound,
    )


def _sequences(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> Figures:
    weights = sequences.read(certificate, limits)
    enumeration = sequences.Enumeration(arithmetic, weights)
    right = sum(
        int(block.sum()) for q in range(weights.vocabulary) for block in enumeration.blocks(q)
    )
    balls_of = balls_attention.check_sequences
    return _largest(certificate, right, balls_of(enumeration) if arb else 0, None)


def _attention(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> Figures:
    problem = attention.read(certificate, limits)
    grouped = list(attention.evaluate(arithmetic, problem))
    right = sum(map(attention.right, grouped))
    groups = balls_attention.check_groups(problem.weights, grouped) if arb else (0, 0)
    return _largest(certificate, right, *groups)


def _largest(certificate: Certificate, right: int, balls: int, groups: int | None) -> Figures:
    """Figures of all sequences, whose label is their largest token."""
    vocabulary, length = certificate.sizes["V"], certificate.sizes["C"]
    count = vocabulary**length
    shares = [((y + 1) ** length - y**length) / count for y in range(vocabulary)]
    return Figures(
        subject=Subject(inputs=count, tokens=vocabulary, length=length),
        accuracy=_down(Fraction(right, count)),
        cross_entropy=None,
        right=right,
        majority=shares[-1],
        label_entropy=abs(math.fsum(share * math.log(share) for share in shares)),
        brute_force=vocabulary * sequences.brute_force(vocabulary, length),
        balls=balls,
        ball_groups=count if groups is None else groups,
    )


FIGURES = {
    "points": _points,
    "pairs": _pairs,
    "boxes": _boxes,
    "products": _products,
    "sequences": _sequences,
    "attention": _attention,
    "attention-latents": _attention,
}


def forward(inputs: int, width: int, classes: int) -> int:
    """Operations of one run of the network, its margins and its cross-entropy."""
    return 2 * inputs * (width + classes) + 2 * width + 2 * width * classes + 8 * classes


def brute_force_pairs(p: int, inputs: int, width: int, skips: bool) -> int:
    """The same for all pairs of summands, with both embeddings projected once."""
    once = 4 * p * inputs * (width + (p if skips else 0)) + p * width
    return once + p * p * (2 * width + 2 * width * p + (9 if skips else 7) * p)


def _share(worst: Array) -> float:
    """The share of positive margins, rounded down. NaN is not positive."""
    return _down(Fraction(int((worst > 0).sum()), worst.size))


def _down(exact: Fraction) -> float:
    """The largest float64 that is no larger, or the next below it."""
    share = float(exact)
    return share if Fraction(share) <= exact else math.nextafter(share, 0.0)


def _mean(bounds: Array) -> float | None:
    """The mean of upper bounds, rounded up; None unless all are numbers."""
    if not np.isfinite(bounds).all():
        return None
    mean = math.fsum(bounds.ravel().tolist()) / bounds.size
    return mean * UP + UNIT
