"""What is checked before anything is computed: ranges of integers, and float64 itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossproof.proof.certificate.format import Certificate, CertificateError


@dataclass(frozen=True, eq=False)
class NetworkWeights:
    """The network: logits = x skip + relu(x W_in + b_in) W_out + b_out."""

    W_in: npt.NDArray[np.float64]
    b_in: npt.NDArray[np.float64]
    W_out: npt.NDArray[np.float64]
    b_out: npt.NDArray[np.float64]
    skip: npt.NDArray[np.float64]

    @classmethod
    def of(cls, certificate: Certificate) -> NetworkWeights:
        """The network of a certificate."""
        return cls(**certificate.part("network"))


def within(name: str, values: npt.NDArray[Any], low: int, high: int) -> None:
    """Raises CertificateError unless all integers are between `low` and `high`, both allowed."""
    if values.min() < low or values.max() > high:
        raise CertificateError(f"{name} must hold numbers between {low} and {high}.")


def check_arithmetic() -> None:
    """Raises CertificateError if this process does not compute as IEEE 754 says by default.

    A library can switch a process to flush subnormal numbers to zero, or to round in a direction;
    the error bounds of the verifier are those of rounding to nearest.
    """
    half = np.full((2, 2), 2.0**-1023)
    ulp = np.array([2.0**-53, 3 * 2.0**-53, -(2.0**-53), -3 * 2.0**-53])
    rounded = np.array([1.0, 1.0, -1.0, -1.0]) + ulp
    nearest = [1.0, 1 + 2.0**-51, -1.0, -1 - 2.0**-51]
    if rounded.tolist() != nearest:
        raise CertificateError("This process does not round to nearest: verify in a fresh one.")
    if not ((half * 2 == 2.0**-1022).all() and (half @ np.eye(2) == half).all()):
        raise CertificateError(
            "This process flushes small numbers to zero (such as by torch.set_flush_denormal): "
            "verify in a fresh one."
        )
