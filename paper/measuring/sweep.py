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

from crossproof.evaluation import EvaluationOptions
from crossproof.training import RunConfig
from paper.drawing.charts import Series
from paper.measuring.experiment import Experiment
from paper.measuring.measurements import SeedMeasurements
from paper.measuring.objectives import EXACT, KEEP_LARGEST, MIXED, exact, mixed
from paper.measuring.statistics import Sums

DECADES = (10.0, 100.0, 1000.0, 10000.0)
OPTIONS = EvaluationOptions(schemes=("none", "keep-largest"), mids=("exact_mid",))
FIGURES = (
    *("dominant_share", "interaction", "additive_interaction", "fvu", "fvu_mlp_in"),
    *("ce_recovered", "l0", "phi/keep-largest/exact_mid", "phi/none/exact_mid"),
)
NONE = "no penalty"


@dataclass(frozen=True)
class ObjectiveFamily:
    """An objective as a function of its strength."""

    terms: Callable[[float], dict[str, Any]]
    strengths: tuple[float, ...] = DECADES


FAMILIES: dict[str, ObjectiveFamily] = {
    "interaction": ObjectiveFamily(lambda s: {"interaction": s}, (1.0, *DECADES)),
    "interaction, output norms": ObjectiveFamily(
        lambda s: {"interaction": s, "interaction_weights": "output_norm"}
    ),
    "keep_largest": ObjectiveFamily(lambda s: {KEEP_LARGEST: s}),
    EXACT: ObjectiveFamily(exact),
    MIXED: ObjectiveFamily(mixed),
    "certified": ObjectiveFamily(lambda s: {"certified": s}, (1.0, 10.0, 100.0, 1000.0)),
    "share": ObjectiveFamily(lambda s: {"dominant_share": s}),
}


@dataclass(frozen=True, eq=False)
class StrengthSweep:
    """The measured families, beside no penalty."""

    experiment: Experiment

    @cached_property
    def variants(self) -> dict[str, RunConfig]:
        """Configurations by label; the first has no penalty."""
        estimates = {NONE: self.experiment.config()}
        for family in FAMILIES:
            for strength in self.strengths(family):
                terms = FAMILIES[family].terms(strength)
                estimates[label(family, strength)] = self.experiment.config(**terms)
        return estimates

    @cached_property
    def runs(self) -> dict[str, SeedMeasurements]:
        """Held-out measurements by label."""
        return self.experiment.measure(self.variants, options=OPTIONS)

    def strengths(self, family: str) -> Sequence[float]:
        """The family's strengths at the settings' size."""
        every = FAMILIES[family].strengths
        return (every[0], every[-1]) if self.experiment.settings.quick else every

    def points(self) -> list[dict[str, Any]]:
        """One entry a variant: family, strength, terms, and every figure with its interval."""
        estimates = [self._point(NONE, None, NONE)]
        for family in FAMILIES:
            for strength in self.strengths(family):
                estimates.append(self._point(family, strength, label(family, strength)))
        return estimates

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
        crosscoders = self.experiment.crosscoders(self.variants)
        return {
            name: np.mean(
                [
                    relative_norms(crosscoder.W_dec.detach(), measured.fired, measured.sums)
                    for crosscoder, measured in zip(members, self.runs[name].seeds, strict=True)
                ],
                axis=0,
            ).tolist()
            for name, members in crosscoders.items()
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
        members = [point for point in points if point["family"] == family]
        estimates = [point["figures"][figure] for point in members]
        low, high = ([entry["ci"][end] for entry in estimates] for end in (0, 1))
        means = [entry["mean"] for entry in estimates]
        if members[0]["strength"] is None:
            series.append(Series(family, [], means, low, high, kind="level"))
        else:
            strengths = [point["strength"] for point in members]
            series.append(Series(family, strengths, means, low, high))
    return series
