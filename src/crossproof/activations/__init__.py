"""From texts to batches of activations."""

from crossproof.activations.corpus import Split, TextSlice, read_sequences
from crossproof.activations.harvest import Harvest
from crossproof.activations.positions import scored_positions

__all__ = ["Harvest", "Split", "TextSlice", "read_sequences", "scored_positions"]
