"""The verifier: reads a certificate and says what it proves, trusting nothing in it.

Of crossproof it imports the format reader and the type of its result; the rest is numpy.
"""

from crossproof.proof.certificate.verifier.verdict import verify

__all__ = ["verify"]
