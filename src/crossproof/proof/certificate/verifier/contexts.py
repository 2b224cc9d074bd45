"""What a certificate about listed contexts shows: both models' ends run again, rounding counted.

From the stream at the entry of an MLP on, the model and the model whose last MLPs read m latents a
neuron are evaluated in float64 with a bound on every rounding error. A prediction is kept where one
class is certainly the most likely of both; losses are compared between the ends of their
intervals. Nothing about an input that is not listed follows.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np

from crossproof.proof.certificate.format import Limits, check_pins
from crossproof.proof.certificate.format_contexts import ContextsCertificate, read_contexts
from crossproof.proof.certificate.result_contexts import ContextsResult
from crossproof.proof.certificate.verifier.checks import check_arithmetic
from crossproof.proof.certificate.verifier.model_end import CHUNK, ModelEnd


def verify_contexts(
    folder: str | Path, *, limits: Limits | None = None, **pins: str | None
) -> ContextsResult:
    """Evaluates both models from the activations saved in `folder`, and compares.

    `pins` are hashes of `model` and `dictionary`, as in `verify`. Raises CertificateError if the
    certificate is malformed, needs more than `limits` allow, or is about something else.
    """
    began = time.perf_counter()
    certificate = read_contexts(Path(folder), limits)
    pinned = check_pins(folder, certificate.about, pins)
    return judge_contexts(certificate, limits, pinned, began)


def judge_contexts(
    certificate: ContextsCertificate,
    limits: Limits | None = None,
    pinned: tuple[str, ...] = (),
    began: float | None = None,
) -> ContextsResult:
    """The verdict on a certificate that has been read."""
    began = time.perf_counter() if began is None else began
    check_arithmetic()
    memory, operations = needs(certificate)
    (limits or Limits()).check(memory, operations)
    with np.errstate(all="ignore"):  # what is not a number proves nothing
        end = ModelEnd(certificate)
        bounds = tuple(end.bounds())
    shares = np.unique(end.labels, return_counts=True)[1] / len(end.labels)
    best = end.model.best
    return ContextsResult(
        kind="contexts",
        holds=all(bound.holds for bound in bounds),
        bounds=bounds,
        contexts=certificate.sizes["S"],
        length=certificate.sizes["T"],
        predictions=len(end.labels),
        constant=int((best < 0).sum() + np.bincount(best[best >= 0]).max(initial=0)),
        vocabulary=certificate.sizes["V"],
        label_entropy=abs(math.fsum(shares * np.log(shares))),
        model_loss=math.fsum(end.model.loss) / len(end.labels),
        model=certificate.model,
        dictionary=certificate.dictionary,
        hashes=certificate.hashes,
        pinned=pinned,
        operations=operations,
        seconds=time.perf_counter() - began,
        bytes=certificate.bytes,
    )


def needs(certificate: ContextsCertificate) -> tuple[int, int]:
    """Bytes and operations, rounded up."""
    sizes, statements = certificate.sizes, len(certificate.statements)
    S, T, D, V, H = (sizes[letter] for letter in "STDVH")
    neurons = max(sizes[f"N{i}"] for i in range(certificate.shape.mlps))
    widest = int(np.diff(certificate.tensors["contexts.offsets"]).max())
    heads, head = sizes.get("A", 0), sizes.get("F", 0)
    kept = len({statement.keep for statement in certificate.statements})
    rows, chunk = S * T, max(CHUNK, widest * neurons)
    memory = certificate.memory + 8 * (
        8 * rows * (V + neurons * 2 + 8 * D) + 2 * kept * rows * (neurons + D)
        + 12 * chunk + 4 * H * neurons + 4 * S * T * T
    )  # fmt: skip
    once = rows * (12 * D * neurons + 8 * D * V + 60 * widest * neurons * (widest.bit_length() + 1))
    attention = rows * heads * (16 * D * head + 8 * T * (head + 4))
    each = rows * (8 * D * neurons + 4 * D * V + 20 * V) + attention
    return memory, 8 * H * D * neurons + once + (statements + 2) * (once + each)
