"""The detectors that an audit runs, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crossproof.auditing.detectors.base import Detector
from crossproof.auditing.detectors.pairs import PairGaussian, PairSurprise
from crossproof.auditing.detectors.tokens import TokenNumber, TokenRarity
from crossproof.auditing.detectors.vectors import LatentGaussian, LatentSurprise, Mahalanobis
from crossproof.auditing.result import Kind
from crossproof.errors import CrossproofError, nearest


@dataclass(frozen=True)
class DetectorKind:
    """A detector's maker, what kind of thing it looks at, and a line about it."""

    make: Callable[[], Detector]
    kind: Kind
    about: str


DETECTORS: dict[str, DetectorKind] = {
    "I max": DetectorKind(lambda: TokenNumber("I", "max"), "interaction", "largest token score I"),
    "I mean": DetectorKind(lambda: TokenNumber("I", "mean"), "interaction", "mean token score I"),
    "J max": DetectorKind(lambda: TokenNumber("J", "max"), "interaction", "largest token score J"),
    "J mean": DetectorKind(lambda: TokenNumber("J", "mean"), "interaction", "mean token score J"),
    "I pairs max": DetectorKind(
        lambda: PairSurprise("I", "max"), "interaction", "unusual pairs, weighed by I, worst token"
    ),
    "I pairs mean": DetectorKind(
        lambda: PairSurprise("I", "mean"), "interaction", "unusual pairs, weighed by I, mean"
    ),
    "I sums": DetectorKind(
        lambda: PairGaussian("I"), "interaction", "pair sums of I under a Gaussian"
    ),
    "Shapley-Taylor max": DetectorKind(
        lambda: PairSurprise("shapley", "max"),
        "interaction",
        "unusual pairs, weighed by Shapley-Taylor, worst token",
    ),
    "Shapley-Taylor mean": DetectorKind(
        lambda: PairSurprise("shapley", "mean"),
        "interaction",
        "unusual pairs, weighed by Shapley-Taylor, mean",
    ),
    "Shapley-Taylor sums": DetectorKind(
        lambda: PairGaussian("shapley"),
        "interaction",
        "pair sums of Shapley-Taylor under a Gaussian",
    ),
    "pairs max": DetectorKind(
        lambda: PairSurprise("coactivation", "max"),
        "latents",
        "unusual pairs, counted without weighing, worst token",
    ),
    "latents max": DetectorKind(
        lambda: LatentSurprise("max"), "latents", "unusual latents by activation, worst token"
    ),
    "latents mean": DetectorKind(
        lambda: LatentSurprise("mean"), "latents", "unusual latents by activation, mean"
    ),
    "latents sums": DetectorKind(
        lambda: LatentGaussian(), "latents", "mean activations of latents under a Gaussian"
    ),
    "error max": DetectorKind(
        lambda: TokenNumber("error", "max"), "activations", "reconstruction error, worst token"
    ),
    "error mean": DetectorKind(
        lambda: TokenNumber("error", "mean"), "activations", "reconstruction error, mean"
    ),
    "Mahalanobis max": DetectorKind(
        lambda: Mahalanobis("max"), "activations", "Mahalanobis distance, worst token"
    ),
    "Mahalanobis mean": DetectorKind(
        lambda: Mahalanobis("mean"), "activations", "Mahalanobis distance, mean"
    ),
    "norm max": DetectorKind(
        lambda: TokenNumber("norm", "max"), "activations", "activation norm, largest"
    ),
    "loss max": DetectorKind(
        lambda: TokenNumber("loss", "max"), "model", "loss of the worst token"
    ),
    "loss mean": DetectorKind(
        lambda: TokenNumber("loss", "mean"), "model", "mean loss of the text"
    ),
    "rarity max": DetectorKind(lambda: TokenRarity("max"), "text", "rarest token"),
    "rarity mean": DetectorKind(lambda: TokenRarity("mean"), "text", "mean rarity of tokens"),
}


def detectors(names: Sequence[str] | None = None, gated: bool = False) -> dict[str, Detector]:
    """Fresh detectors by name; None: all that exist for these MLPs (J needs plain ones).

    Raises CrossproofError for an unknown name.
    """
    chosen = list(DETECTORS) if names is None else list(names)
    for name in chosen:
        if name not in DETECTORS:
            raise CrossproofError(f"There is no detector '{name}'.{nearest(name, DETECTORS)}")
    return {n: DETECTORS[n].make() for n in chosen if not (gated and n.startswith("J "))}
