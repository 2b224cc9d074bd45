"""The options of an audit, and its detectors by name: plain data, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossproof.errors import CrossproofError, nearest

Kind = Literal["interaction", "latents", "activations", "model", "text"]
KINDS: dict[Kind, str] = {
    "interaction": "interactions inside MLPs",
    "latents": "latents alone",
    "activations": "activations",
    "model": "the model's loss",
    "text": "the text alone",
}
"""What detectors look at, in words."""


@dataclass(frozen=True)
class DetectorKind:
    """What kind of thing a detector looks at, and a line about it."""

    kind: Kind
    about: str


_ABOUT: dict[Kind, dict[str, str]] = {
    "interaction": {
        "I max": "largest token score I",
        "I mean": "mean token score I",
        "J max": "largest token score J",
        "J mean": "mean token score J",
        "I pairs max": "unusual pairs, weighed by I, worst token",
        "I pairs mean": "unusual pairs, weighed by I, mean",
        "I sums": "pair sums of I under a Gaussian",
        "Shapley-Taylor max": "unusual pairs, weighed by Shapley-Taylor, worst token",
        "Shapley-Taylor mean": "unusual pairs, weighed by Shapley-Taylor, mean",
        "Shapley-Taylor sums": "pair sums of Shapley-Taylor under a Gaussian",
    },
    "latents": {
        "pairs max": "unusual pairs, counted without weighing, worst token",
        "latents max": "unusual latents by activation, worst token",
        "latents mean": "unusual latents by activation, mean",
        "latents sums": "mean activations of latents under a Gaussian",
    },
    "activations": {
        "error max": "reconstruction error, worst token",
        "error mean": "reconstruction error, mean",
        "Mahalanobis max": "Mahalanobis distance, worst token",
        "Mahalanobis mean": "Mahalanobis distance, mean",
        "norm max": "activation norm, largest",
    },
    "model": {"loss max": "loss of the worst token", "loss mean": "mean loss of the text"},
    "text": {"rarity max": "rarest token", "rarity mean": "mean rarity of tokens"},
}
DETECTORS = {
    name: DetectorKind(kind, about) for kind, some in _ABOUT.items() for name, about in some.items()
}
"""The detectors that an audit runs."""


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


def check_audit(settings: AuditSettings) -> None:
    """Raises CrossproofError for an unknown detector and a number that is too small."""
    check_detector(settings.detector)
    for name, least in {"context": 1, "shown": 0, "n_latents": 1, "steps": 1}.items():
        if getattr(settings, name) < least:
            option = name.replace("_", "-")
            raise CrossproofError(
                f"--{option} is {getattr(settings, name)}: give at least {least}."
            )


def check_detector(name: str) -> None:
    """Raises CrossproofError, with the nearest names, if there is no such detector."""
    if name not in DETECTORS:
        raise CrossproofError(f"There is no detector '{name}'.{nearest(name, DETECTORS)}")
