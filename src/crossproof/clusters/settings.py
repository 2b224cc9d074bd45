"""What `crossproof cluster` is asked for: plain data that needs no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from crossproof.errors import CrossproofError

Algorithm = Literal["affinity", "agglomerative", "spectral"]
ExplainerName = Literal["data", "llm"]
Material = Literal["explanations", "contexts"]
"""What stands for a latent in the odd-one-in task."""
Control = Literal["clusters", "random", "random, matched"]
CONTROLS: tuple[Control, ...] = ("clusters", "random", "random, matched")
"""The clusters themselves; random ones of the same sizes; the same, matched in frequency."""
OPTIONS = 5
CHANCE = 1 / OPTIONS


@dataclass(frozen=True)
class LatentChoice:
    """Which latents are clustered, by a rule that looks at frequency only."""

    latents: int = 512
    """How many at most, spread evenly over the frequencies of those that qualify."""
    min_tokens: int = 20
    """Measured tokens at which a latent must be active."""
    max_frequency: float = 0.1
    """Share of measured tokens above which a latent is too common to have a meaning of its own."""


@dataclass(frozen=True)
class JudgedText:
    """The text on which latents are explained and clusters judged."""

    source: str = ""
    """By default the measured one."""
    split: Literal["held_out", "validation", "train"] | None = None
    """By default the measured one."""
    tokens: int = 100_000


@dataclass(frozen=True)
class ClusterSettings:
    """What is clustered, how, and who judges."""

    similarity: str = "I-normalised"
    algorithm: Algorithm = "affinity"
    clusters: int = 0
    against: tuple[str, ...] = ("coactivation-normalised", "phi", "decoder-cosine")
    judge: str = "embedding"
    """A name that `register_judge` knows."""
    explainer: ExplainerName = "data"
    material: Material = "explanations"
    seeds: int = 3
    seed: int = 0
    per_cluster: int = 4
    """Questions about a cluster, at most."""
    contexts: int = 5
    """Contexts of a latent, for explainers and judges."""
    windows: int = 10
    """Active, and as many inactive, pieces of text that an explanation is scored on."""
    scored: int = 50
    """Latents whose explanations are scored, at most."""
    choice: LatentChoice = field(default_factory=LatentChoice)
    text: JudgedText = field(default_factory=JudgedText)
    embedding_model: str = ""
    resamples: int = 1000

    @property
    def similarities(self) -> tuple[str, ...]:
        """The similarity and those it is compared with, each once."""
        return tuple(dict.fromkeys((self.similarity, *self.against)))


def check_measured(folder: Path) -> None:
    """Raises CrossproofError if there is no such run folder, or it was not measured."""
    if not folder.is_dir():
        raise CrossproofError(
            f"There is no folder {folder}: give a run folder written by `crossproof train`."
        )
    if not (folder / "measure" / "measure.json").exists():
        raise CrossproofError(
            f"{folder} has not been measured: run `crossproof measure {folder}` first."
        )
