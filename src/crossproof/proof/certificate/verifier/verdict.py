"""What a certificate of any kind proves, as computed by the verifier alone."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from crossproof.proof.certificate.format import (
    Certificate,
    CertificateError,
    Limits,
    check_pins,
    kind_of,
    read_certificate,
)
from crossproof.proof.certificate.result import VerificationResult
from crossproof.proof.certificate.result_contexts import ContextsResult
from crossproof.proof.certificate.result_statistical import StatisticalResult
from crossproof.proof.certificate.verifier.arithmetic import Arithmetic
from crossproof.proof.certificate.verifier.checks import check_arithmetic
from crossproof.proof.certificate.verifier.contexts import verify_contexts
from crossproof.proof.certificate.verifier.figures import FIGURES
from crossproof.proof.certificate.verifier.statistical import verify_statistical

Verdict = VerificationResult | StatisticalResult | ContextsResult
"""Each says what it is of (`kind`), whether the claim `holds`, a `verdict` and `tables()`."""


def verify(
    folder: str | Path,
    *,
    network: str | None = None,
    domain: str | None = None,
    model: str | None = None,
    dictionary: str | None = None,
    text: str | None = None,
    arb: bool = False,
    limits: Limits | None = None,
) -> Verdict:
    """Verifies the certificate in `folder`, whatever its kind.

    Hashes are what it must speak about, where the caller knows them: `network`, `domain` and
    `dictionary`, or of a language model `model`, `dictionary` and (statistical) `text`. With `arb`
    the final inequalities about a network are derived again in ball arithmetic (python-flint): of
    every group, or of a fresh draw of them where that would take long.

    Raises CertificateError if the certificate is malformed, needs more than `limits` allow, is
    about something else, or the ball arithmetic contradicts the verdict.
    """
    pins = {"network": network, "domain": domain, "model": model, "text": text}
    pins["dictionary"] = dictionary
    kind = kind_of(Path(folder))
    if kind not in ("statistical", "contexts"):
        return verify_network(folder, arb=arb, limits=limits, **pins)
    if arb:
        raise CertificateError(
            f"{folder} is about a language model, not for ball arithmetic, which derives margins "
            "of small networks again, group by group: verify it without --arb."
        )
    if kind == "contexts":
        return verify_contexts(folder, limits=limits, **pins)
    return verify_statistical(folder, limits=limits, **pins)


def verify_network(
    folder: str | Path, *, arb: bool = False, limits: Limits | None = None, **pins: str | None
) -> VerificationResult:
    """The same of a certificate about a network; `pins` are hashes by name."""
    began = time.perf_counter()
    certificate = read_certificate(Path(folder), limits)
    pinned = check_pins(folder, certificate.hashes, pins)
    return judge(certificate, arb, limits, pinned, began)


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
