"""The options of an audit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AuditSettings:
    """How a model is audited."""

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
