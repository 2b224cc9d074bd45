"""The settings of clustering. Imports nothing that takes time: the command line needs it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from crossproof.activations.config import Split

Algorithm = Literal["affinity", "agglomerative", "spectral"]
Material = Literal["explanations", "contexts"]
"""What stands for a latent in the odd-one-in task."""
JudgeName = Literal["embedding", "overlap", "llm"]
ExplainerName = Literal["data", "llm"]


@dataclass(frozen=True)
class Choice:
    """Which latents are clustered, by a rule that looks at frequency only."""

    latents: int = 512
    """How many at most, spread evenly over the frequencies of those that qualify."""
    min_tokens: int = 20
    """Measured tokens at which a latent must be active."""
    max_frequency: float = 0.1
    """Share of measured tokens above which a latent is too common to have a meaning of its own."""


@dataclass(frozen=True)
class Text:
    """The text on which latents are explained and clusters judged."""

    source: str = ""
    """By default the measured one."""
    split: Split | None = None
    tokens: int = 100_000


@dataclass(frozen=True)
class Settings:
    """What is clustered, how, and who judges."""

    similarity: str = "I-normalised"
    algorithm: Algorithm = "affinity"
    clusters: int = 0
    against: tuple[str, ...] = ("coactivation-normalised", "phi", "decoder-cosine")
    judge: JudgeName = "embedding"
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
    choice: Choice = field(default_factory=Choice)
    text: Text = field(default_factory=Text)
    embedding_model: str = ""
    resamples: int = 1000


@dataclass(frozen=True)
class Endpoint:
    """Where requests go, and at what pace. The key is read from the environment when needed."""

    model: str = ""
    """The model's name at the endpoint."""
    url: str = ""
    """Base URL; by default OPENAI_BASE_URL, or else OpenAI itself."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; local servers may need none."""
    timeout: float = 60.0
    """Seconds for one request."""
    retries: int = 5
    """Further tries after a time-out, a lost connection, a refusal for the rate or a 5xx."""
    requests_per_minute: float = 120.0
    parallel: int = 4
    """Requests under way at once."""
    price_in: float = 0.0
    """Per million prompt tokens, in any currency; 0 if unknown."""
    price_out: float = 0.0
    """Per million tokens of answers."""

    @property
    def address(self) -> str:
        """The base URL without a user's name and password."""
        url = self.url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        parts = urlsplit(url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
