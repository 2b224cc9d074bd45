"""Names that settings need. Imports nothing that takes time: the command line needs it."""

from typing import Literal

Split = Literal["train", "validation", "held_out"]
"""Parts of a corpus: for training, for looking while choosing, and for the reported figures."""
