"""The verifier: reads a certificate and says what it proves, trusting nothing in it.

Of crossproof it imports the format reader and nothing else; the rest is numpy.
"""

from crossproof.proof.certificate.verifier.verdict import Verdict, verify

__all__ = ["Verdict", "verify"]
