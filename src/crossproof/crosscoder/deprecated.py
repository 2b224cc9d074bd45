"""Names of version 0.1 that still work, with a warning that says the new one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor


class FormerNames:
    """What `Crosscoder` called `from_pretrained`, `decoder_vectors` and `decoder_bias`."""

    @classmethod
    def load(cls, folder: str | Path) -> Any:
        """Deprecated: `from_pretrained`."""
        _warn("load", "from_pretrained")
        return cls.from_pretrained(folder)  # type: ignore[attr-defined]  # of Crosscoder

    def atoms(self, hookpoint: int) -> Tensor:
        """Deprecated: `decoder_vectors`."""
        _warn("atoms", "decoder_vectors")
        vectors: Tensor = self.decoder_vectors(hookpoint)  # type: ignore[attr-defined]
        return vectors

    def bias(self, hookpoint: int) -> Tensor:
        """Deprecated: `decoder_bias`."""
        _warn("bias", "decoder_bias")
        value: Tensor = self.decoder_bias(hookpoint)  # type: ignore[attr-defined]
        return value


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"Crosscoder.{old} is now called {new}; the old name will go in version 0.4.",
        DeprecationWarning,
        stacklevel=3,
    )
