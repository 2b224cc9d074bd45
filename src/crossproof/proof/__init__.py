"""Compact proofs: bounds on what interactions cost, where they break, certificates."""
