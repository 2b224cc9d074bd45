"""What `crossproof cluster` is asked for, and the names it knows: plain data, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from crossproof.errors import CrossproofError, nearest
from crossproof.extras import option_name

Algorithm = Literal["affinity", "agglomerative", "spectral"]
ExplainerName = Literal["data", "llm"]
Material = Literal["explanations", "contexts"]
"""What stands for a latent in the odd-one-in task."""
Control = Literal["clusters", "random", "random, matched"]
CONTROLS: tuple[Control, ...] = get_args(Control)
"""The clusters themselves; random ones of the same sizes; the same, matched in frequency."""
OPTIONS = 5
CHANCE = 1 / OPTIONS

FormName = Literal["I", "J", "Q", "AND"]
FORMS: tuple[FormName, ...] = get_args(FormName)
BASELINES = (
    "coactivation",
    "coactivation-normalised",
    "phi",
    "decoder-cosine",
    "decoder-cosine-mlp-in",
)
NEED_DIFFERENCES = ("second-differences", "second-differences-normalised")
OF_A_FORM = (
    "",
    "-normalised",
    "-given-coactivation",
    "-from-magnitudes",
    "-beyond-magnitudes",
    "-phi",
)
"""What is made of a form."""
SIMILARITIES = (
    *(f"{form}{made}" for form in FORMS for made in OF_A_FORM),
    *NEED_DIFFERENCES,
    *BASELINES,
)
"""Names of similarities: interactions first, then the baselines."""


@dataclass(frozen=True)
class LatentChoice:
    """Which latents are clustered, by a rule that looks at frequency only."""

    latents: int = 512
    """How many are clustered, at most, spread evenly over the frequencies of those that qualify."""
    min_tokens: int = 20
    """Measured tokens at which a latent must be active to be clustered."""
    max_frequency: float = 0.1
    """Latents active on a larger share of measured tokens are left out."""


@dataclass(frozen=True)
class JudgedText:
    """The text on which latents are explained and clusters judged."""

    source: Annotated[str, option_name("text")] = ""
    """Text to explain and judge on; by default the measured text's other sequences."""
    split: Literal["held_out", "validation", "train"] | None = None
    """By default the measured one."""
    tokens: int | float = 100_000
    """Tokens to explain and judge on (1e6 is a million)."""


@dataclass(frozen=True)
class ClusterSettings:
    """What is clustered, how, and who judges."""

    similarity: str = "I-normalised"
    """What groups latents: I, J, Q, second-differences, coactivation (each also with -normalised),
    phi, decoder-cosine or decoder-cosine-mlp-in; of gated MLPs AND instead of J."""
    algorithm: Algorithm = "affinity"
    """affinity (propagation, finds the number itself), agglomerative (average linkage), spectral.
    """
    clusters: int = 0
    """How many clusters (not for affinity); 0 is one for every six latents."""
    against: tuple[str, ...] = ("coactivation-normalised", "phi", "decoder-cosine")
    """Similarities to compare it with."""
    judge: str = ""
    """A name that `register_judge` knows; by default embedding where it is installed, else overlap.
    """
    explainer: ExplainerName = "data"
    """data (words that distinguish a latent, offline) or llm."""
    material: Material = "explanations"
    """What the judge sees of each latent: its explanation or its contexts."""
    seeds: int = 3
    """Of clustering, questions and random controls."""
    seed: int = 0
    """The first of them."""
    per_cluster: Annotated[int, option_name("questions")] = 4
    """Questions about each cluster, at most."""
    contexts: int = 5
    """Contexts of a latent, for explainers and judges."""
    windows: int = 10
    """Active, and as many inactive, pieces of text that an explanation is scored on."""
    scored: int = 50
    """Latents whose explanations are scored, at most."""
    choice: LatentChoice = field(default_factory=LatentChoice)
    text: JudgedText = field(default_factory=JudgedText)
    embedding_model: str = ""
    """A sentence-transformers model or folder; by default the packaged all-MiniLM-L6-v2."""
    resamples: int = 1000
    """Bootstrap resamples of clusters, for intervals."""

    @property
    def similarities(self) -> tuple[str, ...]:
        """The similarity and those it is compared with, each once."""
        return tuple(dict.fromkeys((self.similarity, *self.against)))


def known(name: str) -> tuple[str, int | None]:
    """The similarity's name and its block.

    Raises CrossproofError, with the nearest name, for one that is no similarity.
    """
    base, at, block = name.partition("@")
    if base not in SIMILARITIES or (at and not block.isdecimal()):
        raise CrossproofError(
            f"There is no similarity '{name}'.{nearest(base, SIMILARITIES)} All of them: "
            f"{', '.join(SIMILARITIES)}; NAME@2 for block 2 alone."
        )
    if at and base.split("-")[0] not in FORMS:
        raise CrossproofError(
            f"The similarity '{base}' has no blocks: name one made of {', '.join(FORMS)}."
        )
    return base, int(block) if at else None


def available(gated: bool) -> tuple[str, ...]:
    """The similarities of plain or gated MLPs: J is of plain ones only, AND of gated ones."""
    missing = "J" if gated else "AND"
    return tuple(name for name in SIMILARITIES if name.split("-")[0] != missing)


CHOICES = {"algorithm": Algorithm, "explainer": ExplainerName, "material": Material}
LEAST = {
    **{"clusters": 0, "seeds": 1, "seed": 0, "per_cluster": 0, "contexts": 1, "windows": 0},
    **{"scored": 0, "resamples": 1, "latents": 1, "min_tokens": 0, "max_frequency": 0, "tokens": 1},
}
"""The least value of every number."""


def check_settings(settings: ClusterSettings) -> None:
    """Raises CrossproofError, with the nearest names, for an unknown similarity, algorithm,
    explainer or material, and for a number that is too small or not finite."""
    for name in settings.similarities:
        known(name)
    values = {**vars(settings.choice), **vars(settings.text), **vars(settings)}
    for name, literal in CHOICES.items():
        if values[name] not in get_args(literal):
            raise CrossproofError(
                f"There is no {name} '{values[name]}'; choose {' or '.join(get_args(literal))}."
            )
    for name, least in LEAST.items():
        if not least <= values[name] < float("inf"):
            option = "questions" if name == "per_cluster" else name.replace("_", "-")
            raise CrossproofError(f"--{option} is {values[name]}: give at least {least}.")


def is_measured(folder: Path) -> bool:
    """Whether `crossproof measure` has left its sums in the run folder."""
    return (folder / "measure" / "measure.json").exists()


def check_measured(folder: Path) -> None:
    """Raises CrossproofError if there is no such run folder, or it was not measured."""
    if not folder.is_dir():
        raise CrossproofError(
            f"There is no folder {folder}: give a run folder written by `crossproof train`.",
            code="CP-RUN",
        )
    if not is_measured(folder):
        raise CrossproofError(
            f"{folder} has not been measured: run `crossproof measure {folder}` first.",
            code="CP-NOT-MEASURED",
        )
