"""Compact proofs: constants so far; bounds and certificates build on `interactions`."""
