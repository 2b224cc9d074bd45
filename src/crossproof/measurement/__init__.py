"""Interactions of a crosscoder's latents over a text: sums, intervals, the pairs that matter."""

from crossproof.measurement.contexts import PairExample, pair_examples
from crossproof.measurement.stream import Measurement, measure

__all__ = ["Measurement", "PairExample", "measure", "pair_examples"]
