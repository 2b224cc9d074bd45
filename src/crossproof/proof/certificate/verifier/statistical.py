"""What a statistical certificate shows: confidence bounds recomputed from each document's numbers.

A statement about the distribution that documents come from, true with probability 1 - delta over
their draw and under the stated assumptions. It proves nothing about any one input.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from crossproof.proof.certificate.format import Limits, check_pins
from crossproof.proof.certificate.format_statistical import (
    StatisticalCertificate,
    read_statistical,
)
from crossproof.proof.certificate.result_statistical import StatisticalBound, StatisticalResult
from crossproof.proof.certificate.verifier.arithmetic import UNIT, Array
from crossproof.proof.certificate.verifier.checks import check_arithmetic
from crossproof.proof.certificate.verifier.confidence import (
    STEPS,
    betting,
    binomial,
    empirical_bernstein,
    hoeffding,
)

QUANTITIES = 3
"""Statements a treatment: the loss gap, the share of tokens that change, documents beyond."""


def verify_statistical(
    folder: str | Path, *, limits: Limits | None = None, **pins: str | None
) -> StatisticalResult:
    """Recomputes the bounds of the certificate in `folder` from its documents' numbers.

    `pins` are hashes of `model`, `dictionary` and `text`, as in `verify`. That the numbers are the
    model's is not looked at: `recompute` runs it again on some documents.

    Raises CertificateError if the certificate is malformed, needs more than `limits` allow, or is
    about something else.
    """
    began = time.perf_counter()
    certificate = read_statistical(Path(folder), limits)
    pinned = check_pins(folder, certificate.about, pins)
    return judge_statistical(certificate, limits, pinned, began)


def judge_statistical(
    certificate: StatisticalCertificate,
    limits: Limits | None = None,
    pinned: tuple[str, ...] = (),
    began: float | None = None,
) -> StatisticalResult:
    """The verdict on a certificate that has been read."""
    began = time.perf_counter() if began is None else began
    check_arithmetic()
    documents, treatments = certificate.treated_loss.shape
    operations = 12 * STEPS * QUANTITIES * documents * treatments
    memory = documents * (2 * (48 + 16 * treatments) + 200)  # the numbers, twice, and the bets
    (limits or Limits()).check(memory=memory, operations=operations)
    level = math.nextafter(certificate.delta / (QUANTITIES * treatments), 0)
    ordered = in_order(certificate)
    bounds = tuple(
        bound for column in range(treatments) for bound in _bounds(ordered, column, level)
    )
    return StatisticalResult(
        kind="statistical",
        holds=all(bound.holds for bound in bounds),
        delta=certificate.delta,
        level=level,
        low=certificate.low,
        high=certificate.high,
        spliced=certificate.spliced,
        mlps=certificate.mlps,
        bounds=bounds,
        documents=documents,
        tokens=int(certificate.tokens.sum()),
        model_loss=float((certificate.loss / certificate.tokens).mean()),
        vocabulary=certificate.text["vocabulary"],
        model=certificate.model,
        dictionary=certificate.dictionary,
        text=certificate.text["sha256"],
        pinned=pinned,
        operations=operations,
        seconds=time.perf_counter() - began,
        bytes=certificate.bytes,
    )


def in_order(certificate: StatisticalCertificate) -> StatisticalCertificate:
    """The same with documents in the order of their digests.

    Bets are made one document after the other: whoever could choose the order by looking at the
    numbers could prove too much. A hash of what documents say knows nothing of what they cost.
    """
    order = np.lexsort(certificate.digests.T[::-1])
    names = ("digests", "tokens", "loss", "treated_loss", "changed")
    return replace(certificate, **{name: getattr(certificate, name)[order] for name in names})


def _bounds(
    certificate: StatisticalCertificate, column: int, level: float
) -> tuple[StatisticalBound, ...]:
    claimed, tokens = certificate.statements[column], certificate.tokens
    gaps = _gaps(certificate, column)
    shares = np.minimum(certificate.changed[:, column] / tokens * (1 + 2 * UNIT), 1.0)
    low, width = certificate.low, certificate.high - certificate.low
    scaled = (np.clip(gaps, low, certificate.high) - low) / width
    scaled = np.minimum(scaled + 16 * UNIT * (1 + abs(low) / width), 1.0)
    beyond = int((gaps > certificate.high).sum())

    def original(share: float) -> float:
        value = low + width * share
        return min(value + 8 * UNIT * (abs(low) + width), certificate.high)

    return (
        StatisticalBound(
            treatment=claimed.treatment,
            quantity="loss gap",
            bound=original(betting(scaled, level)),
            claimed=claimed.loss_gap,
            measured=float(np.clip(gaps, low, certificate.high).mean()),
            bernstein=original(empirical_bernstein(scaled, level)),
            hoeffding=original(hoeffding(scaled, level)),
            clipped=int(((gaps < low) | (gaps > certificate.high)).sum()),
        ),
        StatisticalBound(
            treatment=claimed.treatment,
            quantity="argmax changed",
            bound=betting(shares, level),
            claimed=claimed.changed,
            measured=float(shares.mean()),
            bernstein=empirical_bernstein(shares, level),
            hoeffding=hoeffding(shares, level),
        ),
        StatisticalBound(
            treatment=claimed.treatment,
            quantity="gap beyond range",
            bound=binomial(beyond, len(gaps), level),
            claimed=claimed.beyond,
            measured=beyond / len(gaps),
        ),
    )


def _gaps(certificate: StatisticalCertificate, column: int) -> Array:
    """Upper ends of each document's mean gap, nats a token, rounding allowed for."""
    treated, loss = certificate.treated_loss[:, column], certificate.loss
    gaps: Array = (treated - loss) / certificate.tokens
    return gaps + 8 * UNIT * (treated + loss) / certificate.tokens
