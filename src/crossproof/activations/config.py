"""Names that settings need. Imports nothing that takes time: the command line needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crossproof.errors import CrossproofError

Split = Literal["train", "validation", "held_out"]
"""Parts of a corpus: for training, for looking while choosing, and for the reported figures."""


RowKind = Literal["packed", "documents"]
"""Rows of tokens: cut from documents packed end to end, or each the beginning of a document."""
StoredDtype = Literal["bfloat16", "float16", "float32"]
"""In which activations are stored."""
MASSIVE = 10.0
"""Times a hookpoint's median norm beyond which a position's activation is massive."""


@dataclass(frozen=True)
class PositionRule:
    """Which positions of a row count, in training and evaluation alike; special tokens never do.

    A crosscoder carries the rule that it was trained by (`Crosscoder.positions`). Raises
    CrossproofError unless the first position, where language models keep their attention sink, is
    left out.
    """

    skip_first: int = 1
    """Positions at the start of every row that are left out."""
    norm_limits: tuple[float, ...] = ()
    """Largest norm of a position that counts, at each hookpoint; none: no limit."""

    def __post_init__(self) -> None:
        if self.skip_first < 1:
            raise CrossproofError(
                f"skip_first is {self.skip_first}; the first position of every row is always left "
                f"out, so it must be at least 1."
            )

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> PositionRule:
        """The rule of a config.json, which has lists; crosscoders of older versions have none."""
        return cls(**{**values, "norm_limits": tuple(values.get("norm_limits", ()))})
