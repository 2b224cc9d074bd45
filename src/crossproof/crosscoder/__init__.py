"""The dictionary: model, sparsity rules, latents, and the native format."""

from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder, CrosscoderConfig
from crossproof.crosscoder.store import Provenance, load_crosscoder, save_crosscoder

__all__ = [
    "Crosscoder",
    "CrosscoderConfig",
    "Provenance",
    "SparseLatents",
    "load_crosscoder",
    "save_crosscoder",
]
