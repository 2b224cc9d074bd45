"""Every objective over decades of its strength, behind figure 1 and the anti-gaming figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from crossproof.evaluation import EvaluationOptions, Sums
from crossproof.training.config import RunConfig
from paper.figure import Series
from paper.lab import Lab
from paper.runs import Runs

DECADES = (10.0, 100.0, 1000.0, 10000.0)
OPTIONS = EvaluationOptions(schemes=("none", "keep-largest"), mids=("exact_mid",))
FIGURES = (
    *("dominant_share", "interaction", "additive_interaction", "fvu", "fvu_mlp_in"),
    *("ce_recovered", "l0", "phi/keep-largest/exact_mid", "phi/none/exact_mid"),
)
NONE = "no penalty"


@dataclass(frozen=True)
class Family:
    """An objective as a function of its strength."""

    terms: Callable[[float], dict[str, Any]]
    strengths: tuple[float, ...] = DECADES


FAMILIES: dict[str, Family] = {
    "interaction": Family(lambda s: {"interaction": s}, (1.0, *DECADES)),
    "interaction, output norms": Family(
        lambda s: {"interaction": s, "interaction_weights": "output_norm"}
    ),
    "transition": Family(lambda s: {"keep_largest": s}),
    "transition + all_latents/4": Family(lambda s: {"keep_largest": s, "all_latents": s / 4}),
    "the same + interaction/40": Family(
        lambda s: {"keep_largest": s, "all_latents": s / 4, "interaction": s / 40}
    ),
    "certified": Family(lambda s: {"certified": s}, (1.0, 10.0, 100.0, 1000.0)),
    "share": Family(lambda s: {"dominant_share": s}),
}
"""The mixture is the recipe's, whose terms stand as 40 : 10 : 1."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """The measured families, beside no penalty."""

    lab: Lab

    @cached_property
    def variants(self) -> dict[str, RunConfig]:
        """Configurations by label; the first has no penalty."""
        found = {NONE: self.lab.config()}
        for family in FAMILIES:
            for strength in self.strengths(family):
                terms = FAMILIES[family].terms(strength)
                found[label(family, strength)] = self.lab.config(**terms)
        return found

    @cached_property
    def runs(self) -> dict[str, Runs]:
        """Held-out measurements by label."""
        return self.lab.measure(self.variants, options=OPTIONS)

    def strengths(self, family: str) -> Sequence[float]:
        """The family's strengths at the settings' size."""
        every = FAMILIES[family].strengths
        return (every[0], every[-1]) if self.lab.settings.quick else every

    def points(self) -> list[dict[str, Any]]:
        """One entry a variant: family, strength, terms, and every figure with its interval."""
        found = [self._point(NONE, None, NONE)]
        for family in FAMILIES:
            for strength in self.strengths(family):
                found.append(self._point(family, strength, label(family, strength)))
        return found

    def _point(self, family: str, strength: float | None, name: str) -> dict[str, Any]:
        runs = self.runs[name]
        figures = {figure: runs.figure(figure).estimate() for figure in FIGURES}
        rise = runs.figure("fvu").mean() / self.runs[NONE].figure("fvu").mean()
        return {
            "family": family,
            "strength": strength,
            "terms": self.variants[name].objective.strengths(),
            "dead": float(np.mean(runs.dead)),
            "fvu_ratio": rise.estimate(),
            "figures": figures,
        }

    def decoder_norms(self) -> dict[str, list[float]]:
        """By label, the size of decoder vectors at each hookpoint; see `relative_norms`."""
        crosscoders = self.lab.crosscoders(self.variants)
        return {
            name: np.mean(
                [
                    relative_norms(crosscoder.W_dec.detach(), measured.fired, measured.sums)
                    for crosscoder, measured in zip(own, self.runs[name].seeds, strict=True)
                ],
                axis=0,
            ).tolist()
            for name, own in crosscoders.items()
        }


def relative_norms(
    W_dec: Float[Tensor, "H P D"], fired: NDArray[Any], sums: Sums
) -> NDArray[np.float64]:
    """‖d_h‖ at each hookpoint, relative to the same latent's decoder over all hookpoints.

    Lengths are in units of the hookpoint's root mean square activation, and averaged over
    firings. Scaling a latent's encoder up and its whole decoder down changes nothing here.
    """
    rms = np.sqrt(sums["square"].sum(0) / sums["tokens"].sum())
    norms = W_dec.double().norm(dim=2).numpy() / rms  # [H, P]
    relative = norms / np.sqrt((norms**2).mean(1, keepdims=True)).clip(1e-12)
    mean: NDArray[np.float64] = (relative * fired[:, None]).sum(0) / max(fired.sum(), 1)
    return mean


def label(family: str, strength: float) -> str:
    """A variant's name."""
    return f"{family}, {strength:g}"


def lines(points: Sequence[Mapping[str, Any]], figure: str) -> list[Series]:
    """A figure against strength, a line a family, the unpenalised one as a level."""
    series = []
    for family in dict.fromkeys(point["family"] for point in points):
        own = [point for point in points if point["family"] == family]
        found = [point["figures"][figure] for point in own]
        low, high = ([entry["ci"][end] for entry in found] for end in (0, 1))
        means = [entry["mean"] for entry in found]
        if own[0]["strength"] is None:
            series.append(Series(family, [], means, low, high, kind="level"))
        else:
            strengths = [point["strength"] for point in own]
            series.append(Series(family, strengths, means, low, high))
    return series
