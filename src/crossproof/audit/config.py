"""The settings of an audit. Imports nothing that takes time: the command line needs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class AuditSettings:
    """What is audited, and how."""

    trusted: str
    """Texts known to be clean: a .txt or .jsonl file, hf:NAME, packed tokens, or `bundled`."""
    suspect: str
    """Texts to be ranked by how anomalous the model's insides are on them."""
    crosscoder: Path | None = None
    """A crosscoder of this model; by default one is trained on part of the trusted texts."""
    detector: str = "I sums"
    """The detector that ranks; all of them are in audit.json."""
    context: int = 256
    """Tokens of a text that are read, at most."""
    shown: int = 6
    """Texts of the top of the list that the report colours."""
    n_latents: int = 512
    """Latents of a crosscoder trained here."""
    steps: int = 300
    """Steps of its training, of 1,024 tokens."""
    seed: int = 0
    """Of the split of the trusted texts, and of training."""
