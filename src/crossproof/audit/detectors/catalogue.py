"""The detectors that an audit runs, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crossproof.audit.detectors.base import Detector
from crossproof.audit.detectors.pairs import PairSums, PairSurprise
from crossproof.audit.detectors.tokens import TokenNumber, TokenRarity
from crossproof.audit.detectors.vectors import LatentGaussian, LatentSurprise, Mahalanobis
from crossproof.errors import CrossproofError, nearest


@dataclass(frozen=True)
class Entry:
    """A detector's maker, what kind of thing it looks at, and a line about it."""

    make: Callable[[], Detector]
    kind: str
    """interaction, latents, activations, model or text."""
    about: str


DETECTORS: dict[str, Entry] = {
    "I max": Entry(lambda: TokenNumber("I", "max"), "interaction", "largest token score I"),
    "I mean": Entry(lambda: TokenNumber("I", "mean"), "interaction", "mean token score I"),
    "J max": Entry(lambda: TokenNumber("J", "max"), "interaction", "largest token score J"),
    "J mean": Entry(lambda: TokenNumber("J", "mean"), "interaction", "mean token score J"),
    "I pairs max": Entry(
        lambda: PairSurprise("I", "max"), "interaction", "unusual pairs, weighed by I, worst token"
    ),
    "I pairs mean": Entry(
        lambda: PairSurprise("I", "mean"), "interaction", "unusual pairs, weighed by I, mean"
    ),
    "I sums": Entry(lambda: PairSums("I"), "interaction", "pair sums of I under a Gaussian"),
    "Shapley-Taylor max": Entry(
        lambda: PairSurprise("shapley", "max"),
        "interaction",
        "unusual pairs, weighed by Shapley-Taylor, worst token",
    ),
    "Shapley-Taylor mean": Entry(
        lambda: PairSurprise("shapley", "mean"),
        "interaction",
        "unusual pairs, weighed by Shapley-Taylor, mean",
    ),
    "Shapley-Taylor sums": Entry(
        lambda: PairSums("shapley"), "interaction", "pair sums of Shapley-Taylor under a Gaussian"
    ),
    "pairs max": Entry(
        lambda: PairSurprise("coactivation", "max"),
        "latents",
        "unusual pairs, counted without weighing, worst token",
    ),
    "latents max": Entry(
        lambda: LatentSurprise("max"), "latents", "unusual latents by activation, worst token"
    ),
    "latents mean": Entry(
        lambda: LatentSurprise("mean"), "latents", "unusual latents by activation, mean"
    ),
    "latents sums": Entry(
        lambda: LatentGaussian(), "latents", "mean activations of latents under a Gaussian"
    ),
    "error max": Entry(
        lambda: TokenNumber("error", "max"), "activations", "reconstruction error, worst token"
    ),
    "error mean": Entry(
        lambda: TokenNumber("error", "mean"), "activations", "reconstruction error, mean"
    ),
    "Mahalanobis max": Entry(
        lambda: Mahalanobis("max"), "activations", "Mahalanobis distance, worst token"
    ),
    "Mahalanobis mean": Entry(
        lambda: Mahalanobis("mean"), "activations", "Mahalanobis distance, mean"
    ),
    "norm max": Entry(
        lambda: TokenNumber("norm", "max"), "activations", "activation norm, largest"
    ),
    "loss max": Entry(lambda: TokenNumber("loss", "max"), "model", "loss of the worst token"),
    "loss mean": Entry(lambda: TokenNumber("loss", "mean"), "model", "mean loss of the text"),
    "rarity max": Entry(lambda: TokenRarity("max"), "text", "rarest token"),
    "rarity mean": Entry(lambda: TokenRarity("mean"), "text", "mean rarity of tokens"),
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
