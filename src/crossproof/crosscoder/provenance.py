"""Where a crosscoder comes from. Imports nothing that takes time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """Where a crosscoder comes from: the model it explains and how it was trained."""

    model: str
    """Name of the language model, as given to `load_model`."""
    weights_hash: str
    """Hash of the language model's weights (`LanguageModel.weights_hash`)."""
    seed: int = 0
    training: Mapping[str, Any] = field(default_factory=dict)
    """The training configuration, as plain values."""
