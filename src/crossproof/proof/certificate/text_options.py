"""Options of certificates about language models, without PyTorch, for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from crossproof.activations.config import Split
from crossproof.errors import CrossproofError


@dataclass(frozen=True)
class StatisticalOptions:
    """What is measured on held-out documents, and with which confidence it is claimed.

    All of it is to be fixed before looking at the documents: what is chosen by looking at them is
    not covered by the confidence.
    """

    delta: float = 0.05
    """All statements of the certificate hold together with probability 1 - delta."""
    range: float = 1.0
    """A document's loss gap is clipped to [-range, range] nats a token."""
    keep: tuple[int, ...] = (1, 2, 4, 8)
    """Latents a neuron, a row each; 0 is the MLP without the dictionary's latents."""
    splice: tuple[str, ...] = ("all",)
    """Hookpoints that one row replaces by their reconstruction; all that the dictionary writes, or
    none."""
    documents: int = 2000
    """How many documents, if the text has them."""

    def __post_init__(self) -> None:
        if not 0 < self.delta < 1:
            raise CrossproofError(
                f"delta is {self.delta}: a confidence of 1 - delta needs a number between 0 and 1."
            )
        if not 1e-3 <= self.range <= 1000:
            raise CrossproofError(f"range is {self.range}: give a number from 0.001 to 1000 nats.")
        if self.documents < 2:
            raise CrossproofError(f"documents is {self.documents}: bounds need 2 at least.")
        if len(self.keep) > 32:
            raise CrossproofError(f"{len(self.keep)} numbers of latents are too many: give 32.")


@dataclass(frozen=True)
class DocumentSlice:
    """Which documents of which text."""

    text: str
    split: Split
    context: int
    """Tokens of a document that are read at most."""
    skip: int = 0
    """Rows at the beginning of the split that are passed over, as already looked at."""


@dataclass(frozen=True)
class ContextOptions:
    """What is replaced at the listed contexts."""

    keep: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    """Latents a neuron, a row each; 0 is the MLP without the dictionary's latents."""
    mlps: tuple[int, ...] = (1, 2)
    """1: the last MLP; 2: the last two; or both."""

    def __post_init__(self) -> None:
        numbers = (self.keep, self.mlps)
        if not all(each and len(set(each)) == len(each) for each in numbers):
            raise CrossproofError(
                "Give every number of latents and of MLPs once, and one at least."
            )
        if min(self.keep) < 0 or not set(self.mlps) <= {1, 2} or len(self.keep) > 32:
            raise CrossproofError("Give 1 or 2 MLPs, and at most 32 numbers of latents from 0 up.")
