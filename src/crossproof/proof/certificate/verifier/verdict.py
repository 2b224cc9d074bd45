"""What a certificate proves, as computed by the verifier alone."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from crossproof.proof.certificate.format import (
    Certificate,
    CertificateError,
    Limits,
    read_certificate,
)
from crossproof.proof.certificate.result import Subject, VerificationResult
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
from crossproof.proof.certificate.verifier.checks import check_arithmetic


def verify(
    folder: str | Path,
    *,
    network: str | None = None,
    domain: str | None = None,
    arb: bool = False,
    limits: Limits | None = None,
) -> VerificationResult:
    """Verifies the certificate in `folder`.

    `network` and `domain` are hashes it must speak about, where the caller knows them. With `arb`
    the final inequalities are derived again in ball arithmetic (python-flint): of every group, or
    of a fresh draw of them where that would take long.

    Raises CertificateError if the certificate is malformed, needs more than `limits` allow, is
    about something else, or the ball arithmetic contradicts the verdict.
    """
    began = time.perf_counter()
    limits = limits or Limits()
    certificate = read_certificate(Path(folder), limits)
    pinned = {"network": network, "domain": domain}
    for name, expected in pinned.items():
        if expected is not None and certificate.hashes[name] != expected:
            raise CertificateError(
                f"{folder} speaks about the {name} {certificate.hashes[name]}, not {expected}."
            )
    known = tuple(name for name, expected in pinned.items() if expected is not None)
    return judge(certificate, arb, limits, known, began)


def judge(
    certificate: Certificate,
    arb: bool = False,
    limits: Limits | None = None,
    pinned: tuple[str, ...] = (),
    began: float | None = None,
) -> VerificationResult:
    """The verdict on a certificate that has been read."""
    began = time.perf_counter() if began is None else began
    check_arithmetic()
    arithmetic = Arithmetic()
    figures_of = FIGURES[certificate.kind]
    with np.errstate(all="ignore"):  # what is not a number proves nothing
        figures = figures_of(arithmetic, certificate, arb, limits or Limits())
    claim, classes = certificate.claim, certificate.sizes["V"]
    accuracy, entropy = claim.get("accuracy"), claim.get("cross_entropy")
    reached = accuracy is None or figures.accuracy >= accuracy
    bound = figures.cross_entropy
    reached = reached and (entropy is None or (bound is not None and bound <= entropy))
    return VerificationResult(
        kind=certificate.kind,
        holds=reached,
        accuracy=figures.accuracy,
        cross_entropy=bound,
        claimed_accuracy=accuracy,
        claimed_cross_entropy=entropy,
        subject=figures.subject,
        right=figures.right,
        chance=1 / classes,
        majority=figures.majority,
        label_entropy=figures.label_entropy,
        classes=classes,
        operations=arithmetic.operations,
        brute_force=figures.brute_force,
        seconds=time.perf_counter() - began,
        bytes=certificate.bytes,
        network=certificate.hashes["network"],
        domain=certificate.hashes["domain"],
        dictionary=certificate.hashes.get("dictionary"),
        pinned=pinned,
        balls=figures.balls,
        ball_groups=figures.ball_groups,
        by_bound=figures.by_bound,
    )


@dataclass(frozen=True)
class _Figures:
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


def _points(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> _Figures:
    problem = points.read(certificate, limits)
    count, (width, classes) = len(problem.labels), problem.weights.W_out.shape
    worst, entropy = np.empty(count), np.empty(count)
    for rows, margin, bound in points.evaluate(arithmetic, problem):
        worst[rows], entropy[rows] = margin, bound
    labels = np.bincount(problem.labels)
    shares = labels[labels > 0] / count
    inputs = {hashlib.sha256(row + 0.0).digest() for row in problem.inputs}  # -0.0 is 0.0
    return _Figures(
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


def _pairs(arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits) -> _Figures:
    problem = pairs.read(certificate, limits)
    p, width = len(problem.left), problem.weights.W_in.shape[1]
    worst, entropy = np.empty((2, p, p))
    for a, margin, bound in pairs.evaluate(arithmetic, problem):
        worst[a], entropy[a] = margin, bound
    skips = bool(problem.weights.skip.any())
    return _Figures(
        subject=Subject(inputs=p * p, modulus=p),
        accuracy=_share(worst),
        cross_entropy=_mean(entropy),
        right=int((worst > 0).sum()),
        majority=1 / p,
        label_entropy=math.log(p),
        brute_force=brute_force_pairs(p, problem.left.shape[1], width, skips),
        balls=balls.check_pairs(problem, worst, entropy) if arb else 0,
        ball_groups=p * p,
    )


def _boxes(arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits) -> _Figures:
    problem = boxes.read(certificate, limits)
    proved, sizes = boxes.evaluate(arithmetic, problem), certificate.sizes
    count = int((problem.tree >= 0).sum())
    return _Figures(
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


def _products(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> _Figures:
    problem = products.read(certificate, limits)
    p, width = len(problem.left), problem.weights.W_in.shape[1]
    worst, entropy = np.empty((2, p, p))
    for a, margin, bound in products.evaluate(arithmetic, problem):
        worst[a], entropy[a] = margin, bound
    skips = bool(problem.weights.skip.any())
    return _Figures(
        subject=Subject(inputs=p * p, elements=p),
        accuracy=_share(worst),
        cross_entropy=_mean(entropy),
        right=int((worst > 0).sum()),
        majority=1 / p,
        label_entropy=math.log(p),
        brute_force=brute_force_pairs(p, problem.left.shape[1], width, skips),
        balls=balls_products.check_products(problem, worst, entropy) if arb else 0,
        ball_groups=p * p,
    )


def _sequences(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> _Figures:
    weights = sequences.read(certificate, limits)
    enumeration = sequences.Enumeration(arithmetic, weights)
    right = sum(
        int(block.sum()) for q in range(weights.vocabulary) for block in enumeration.blocks(q)
    )
    balls_of = balls_attention.check_sequences
    return _largest(certificate, right, balls_of(enumeration) if arb else 0, None)


def _attention(
    arithmetic: Arithmetic, certificate: Certificate, arb: bool, limits: Limits
) -> _Figures:
    problem = attention.read(certificate, limits)
    grouped = list(attention.evaluate(arithmetic, problem))
    right = sum(map(attention.right, grouped))
    groups = balls_attention.check_groups(problem.weights, grouped) if arb else (0, 0)
    return _largest(certificate, right, *groups)


def _largest(certificate: Certificate, right: int, balls: int, groups: int | None) -> _Figures:
    """Figures of all sequences, whose label is their largest token."""
    vocabulary, length = certificate.sizes["V"], certificate.sizes["C"]
    count = vocabulary**length
    shares = [((y + 1) ** length - y**length) / count for y in range(vocabulary)]
    return _Figures(
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
