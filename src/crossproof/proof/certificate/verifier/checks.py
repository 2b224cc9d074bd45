"""Shapes and ranges of the tensors in a certificate: refused here, or safe to compute with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.format import Certificate, CertificateError

Sizes = dict[str, int]
LARGEST_SUM, LISTS = 10**6, "BEGLT"
"""Sums have at most this many terms (`arithmetic.UP`); nothing is summed over these letters."""


@dataclass(frozen=True, eq=False)
class NetworkWeights:
    """The network: logits = x skip + relu(x W_in + b_in) W_out + b_out."""

    W_in: npt.NDArray[np.float64]
    b_in: npt.NDArray[np.float64]
    W_out: npt.NDArray[np.float64]
    b_out: npt.NDArray[np.float64]
    skip: npt.NDArray[np.float64]


def network(certificate: Certificate, sizes: Sizes) -> NetworkWeights:
    """The network; writes D, N and V to `sizes`."""
    shapes = {"W_in": "D N", "b_in": "N", "W_out": "N V", "b_out": "V", "skip": "D V"}
    weights = NetworkWeights(**part(certificate, "network", shapes, sizes))
    if sizes["V"] < 2:
        raise CertificateError("A network with fewer than two classes has nothing to certify.")
    return weights


def part(
    certificate: Certificate,
    name: str,
    shapes: Mapping[str, str],
    sizes: Sizes,
    integers: frozenset[str] = frozenset(),
) -> dict[str, npt.NDArray[Any]]:
    """The tensors `name.*`, with exactly these names and shapes.

    Shapes are letters; a letter met before must have the same size, a new one is written to
    `sizes`. Raises CertificateError for anything missing, foreign or of the wrong shape or type.
    """
    tensors = certificate.part(name)
    if set(tensors) != set(shapes):
        raise CertificateError(
            f"The certificate's {name} must hold {sorted(shapes)}, and it holds {sorted(tensors)}."
        )
    for key, shape in shapes.items():
        _check(f"{name}.{key}", tensors[key], shape.split(), sizes)
        whole = np.issubdtype(tensors[key].dtype, np.integer)
        if whole != (key in integers):
            kind = "integers" if key in integers else "floating point"
            raise CertificateError(f"{name}.{key} must be {kind}.")
    return tensors


def _check(name: str, tensor: npt.NDArray[Any], letters: list[str], sizes: Sizes) -> None:
    fits = tensor.ndim == len(letters) and all(
        size > 0 and sizes.setdefault(letter, size) == size
        for letter, size in zip(letters, tensor.shape, strict=False)
    )
    if not fits:
        known = ", ".join(f"{letter}={size}" for letter, size in sizes.items())
        raise CertificateError(
            f"{name} has shape {list(tensor.shape)}, and [{', '.join(letters)}] is needed with "
            f"{known}."
        )
    for letter in set(letters) - set(LISTS):
        budget(f"entries along {letter} of {name}", sizes[letter], LARGEST_SUM)


def within(name: str, values: npt.NDArray[Any], low: int, high: int) -> None:
    """Raises CertificateError unless all integers are between `low` and `high`, both allowed."""
    if values.size and (values.min() < low or values.max() > high):
        raise CertificateError(f"{name} must hold numbers between {low} and {high}.")


def budget(what: str, amount: int, limit: int) -> None:
    """Raises CertificateError if the certificate asks for more work or memory than allowed."""
    if amount > limit:
        raise CertificateError(f"The certificate needs {amount:,} {what}; the limit is {limit:,}.")
