"""Objectives along their strength, and the place on a curve that equals something else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paper.measuring.measurements import SeedMeasurements
from paper.measuring.statistics import ResampledStatistic


@dataclass(frozen=True)
class CurvePoint:
    """Between two neighbouring points of a curve; `weight` belongs to the second."""

    first: str
    second: str
    weight: float
    reached: bool = True
    """Whether the curve gets there at all; if not, this is its nearest point."""

    def figure(self, runs: Mapping[str, SeedMeasurements], name: str) -> ResampledStatistic:
        """A figure at this place, linear between the two points, mean over its parts."""
        first, second = (runs[n].figure(name).mean() for n in (self.first, self.second))
        return first.combine(lambda a, b: (1 - self.weight) * a + self.weight * b, second)

    def describe(self) -> str:
        """`first`, `second`, or how far between them; marked if the target is out of reach."""
        if self.weight in (0, 1):
            text = self.second if self.weight else self.first
        else:
            text = f"{self.weight:.0%} from {self.first} to {self.second}"
        return text if self.reached else f"{text} (target out of reach)"


def point_at(values: Mapping[str, float], target: float) -> CurvePoint:
    """The first place along a curve where a figure equals `target`.

    `values`: the figure at each point by name, in the order of strength. If no two neighbours
    enclose the target, the nearest point, marked as not reached.
    """
    names = list(values)
    for first, second in pairwise(names):
        a, b = values[first], values[second]
        if min(a, b) <= target <= max(a, b):
            return CurvePoint(first, second, 0.0 if a == b else (target - a) / (b - a))
    nearest = min(names, key=lambda name: abs(values[name] - target))
    return CurvePoint(nearest, nearest, 0.0, reached=False)


def point_at_strength(
    names: Sequence[str], strengths: Sequence[float], target: float
) -> CurvePoint:
    """The place along a curve at strength `target`, linear in the logarithm of strengths."""
    logs = {name: math.log(s) for name, s in zip(names, strengths, strict=True)}
    return point_at(logs, math.log(target))
