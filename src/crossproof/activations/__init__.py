"""From texts to batches of activations."""

from crossproof.activations.corpus import Split, read_sequences
from crossproof.activations.harvest import Harvest
from crossproof.activations.positions import scored_positions

__all__ = ["Harvest", "Split", "read_sequences", "scored_positions"]
