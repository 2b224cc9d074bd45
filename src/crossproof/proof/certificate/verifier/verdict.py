"""What a certificate proves, as computed by the verifier alone."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from crossproof.proof.certificate.format import Certificate, CertificateError, read_certificate
from crossproof.proof.certificate.result import VerificationResult
from crossproof.proof.certificate.verifier import balls, balls_boxes, boxes, pairs, points
from crossproof.proof.certificate.verifier.arithmetic import UNIT, UP, Arithmetic, Array, gamma


def verify(
    folder: str | Path, *, network: str | None = None, domain: str | None = None, arb: bool = False
) -> VerificationResult:
    """Verifies the certificate in `folder`.

    `network` and `domain` are hashes it must speak about, where the caller knows them. With `arb`
    the final inequalities are derived again in ball arithmetic (python-flint) for all groups of a
    small certificate and a fixed sample of a large one.

    Raises CertificateError if the certificate is malformed, is about something else, or the ball
    arithmetic contradicts the verdict.
    """
    began = time.perf_counter()
    certificate = read_certificate(Path(folder))
    for name, expected in (("network", network), ("domain", domain)):
        if expected is not None and certificate.hashes[name] != expected:
            raise CertificateError(
                f"{folder} speaks about the {name} {certificate.hashes[name]}, not {expected}."
            )
    return judge(certificate, arb, began)


def judge(
    certificate: Certificate, arb: bool = False, began: float | None = None
) -> VerificationResult:
    """The verdict on a certificate that has been read."""
    began = time.perf_counter() if began is None else began
    arithmetic = Arithmetic()
    figures_of = {"points": _points, "pairs": _pairs, "boxes": _boxes}[certificate.kind]
    with np.errstate(all="ignore"):  # what is not a number proves nothing
        figures = figures_of(arithmetic, certificate, arb)
    claim = certificate.claim
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
        chance=figures.chance,
        classes=figures.classes,
        operations=arithmetic.operations,
        brute_force=figures.brute_force,
        seconds=time.perf_counter() - began,
        bytes=certificate.bytes,
        network=certificate.hashes["network"],
        domain=certificate.hashes["domain"],
        dictionary=certificate.hashes.get("dictionary"),
        balls=figures.balls,
        by_bound=figures.by_bound,
    )


@dataclass(frozen=True)
class _Figures:
    accuracy: float
    cross_entropy: float | None
    chance: float
    classes: int
    brute_force: int | None
    balls: int
    by_bound: dict[str, float] = field(default_factory=dict)


def _points(arithmetic: Arithmetic, certificate: Certificate, arb: bool) -> _Figures:
    problem = points.read(certificate)
    count, (width, classes) = len(problem.labels), problem.weights.W_out.shape
    worst, entropy = np.empty(count), np.empty(count)
    for rows, margin, bound in points.evaluate(arithmetic, problem):
        worst[rows], entropy[rows] = margin, bound
    checked = balls.check_points(problem, worst) if arb else 0
    return _Figures(
        accuracy=_share(worst),
        cross_entropy=_mean(entropy),
        chance=float(np.bincount(problem.labels).max()) / count,
        classes=classes,
        brute_force=count * forward(problem.inputs.shape[1], width, classes),
        balls=checked,
    )


def _pairs(arithmetic: Arithmetic, certificate: Certificate, arb: bool) -> _Figures:
    problem = pairs.read(certificate)
    p, width = len(problem.left), problem.weights.W_in.shape[1]
    rows = list(pairs.evaluate(arithmetic, problem))
    worst = np.stack([margin for _, margin, _ in rows])
    checked = balls.check_pairs(problem, worst) if arb else 0
    return _Figures(
        accuracy=_share(worst),
        cross_entropy=_mean(np.stack([bound for _, _, bound in rows])),
        chance=1 / p,
        classes=p,
        brute_force=brute_force_pairs(
            p, problem.left.shape[1], width, bool(problem.weights.skip.any())
        ),
        balls=checked,
    )


def _boxes(arithmetic: Arithmetic, certificate: Certificate, arb: bool) -> _Figures:
    problem = boxes.read(certificate)
    proved = boxes.evaluate(arithmetic, problem)
    checked = balls_boxes.check_boxes(problem, proved.leaves) if arb else 0
    classes = problem.weights.W_out.shape[1]
    return _Figures(proved.accuracy, None, 1 / classes, classes, None, checked, proved.by_bound)


def forward(inputs: int, width: int, classes: int) -> int:
    """Operations of one run of the network, its margins and its cross-entropy."""
    return 2 * inputs * (width + classes) + 2 * width + 2 * width * classes + 8 * classes


def brute_force_pairs(p: int, inputs: int, width: int, skips: bool) -> int:
    """The same for all pairs of summands, with both embeddings projected once."""
    once = 4 * p * inputs * (width + (p if skips else 0)) + p * width
    return once + p * p * (2 * width + 2 * width * p + (9 if skips else 7) * p)


def _share(worst: Array) -> float:
    """The share of positive margins, rounded down. NaN is not positive."""
    exact = Fraction(int((worst > 0).sum()), worst.size)
    share = float(exact)
    return share if Fraction(share) <= exact else math.nextafter(share, 0.0)


def _mean(bounds: Array) -> float | None:
    """The mean of upper bounds, rounded up; None unless all are numbers."""
    if not np.isfinite(bounds).all():
        return None
    mean = math.fsum(bounds.ravel().tolist()) / bounds.size
    return mean * UP * (1 + gamma(4)) + UNIT
