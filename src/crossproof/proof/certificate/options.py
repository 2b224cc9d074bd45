"""What `crossproof prove` searches for, without PyTorch: its command line is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ProverOptions:
    """What is certified, and how long the search may take."""

    seed: int = 0
    """Of the sample."""
    kind: Literal["auto", "points", "boxes", "attention", "sequences"] = "auto"
    """Certify a sample (points) or a continuum (boxes) of sparse inputs; auto: a sample. Certify
    an attention layer in groups of sequences (attention) or one by one (sequences); auto: in
    groups."""
    points: int = 2000
    """Inputs in the sample."""
    nodes: int = 50_000
    """How many boxes to look at; more of them prove more."""
    grain: Literal["class", "query", "label"] = "class"
    """What the worst of a group of sequences is found for: every class, query and label (proves
    most), every query and label, or every label (cheapest)."""
    blocks: int = -1
    """Frequencies of a modular certificate; -1 searches the cheapest of highest accuracy."""
