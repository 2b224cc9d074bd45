"""What results.json says of each run, read in one place; whatever a run lacks is None."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossproof.errors import CrossproofError

SCHEME_LABELS = {
    "none": "all latents",
    "drop-random": "drop a random one",
    "drop-second": "drop the second",
    "drop-largest": "drop the largest",
    "keep-largest": "keep only the largest",
}
MID_LABELS = {"exact_mid": "exact resid_mid", "reconstructed_mid": "reconstructed resid_mid"}
PALETTE = 6
"""Colours of the page's style sheet, --run-1 to --run-6; further runs start again."""


@dataclass(frozen=True)
class Value:
    """A figure, and its 95% interval where there is one."""

    mean: float
    low: float | None = None
    high: float | None = None

    def overlaps(self, other: Value) -> bool:
        """Whether the intervals share a point; a figure without interval is its own."""
        return self.ends[0] <= other.ends[1] and other.ends[0] <= self.ends[1]

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the figure twice."""
        if self.low is None or self.high is None:
            return self.mean, self.mean
        return self.low, self.high


@dataclass(frozen=True)
class Run:
    """One run of results.json; `place` counts from 0 and decides its colour."""

    name: str
    place: int
    data: Mapping[str, Any]

    @property
    def objective(self) -> str:
        """What it was trained for, in words."""
        return str(self.data.get("objective", "objective not recorded"))

    @property
    def colour(self) -> str:
        """The custom property of the style sheet that holds the run's colour."""
        return f"--run-{self.place % PALETTE + 1}"

    @property
    def blocks(self) -> list[int]:
        """The blocks whose MLP input the crosscoder reads."""
        return [int(block) for block in self.data.get("blocks", [])]

    def value(self, name: str) -> Value | None:
        """A figure of the whole run."""
        ends = self.data.get("intervals", {}).get(name)
        return _value(self.data.get(name), ends)

    def phi(self, scheme: str, mid: str = "exact_mid") -> Value | None:
        """Fidelity of one ablation, mean over blocks; zero reference: latents removed."""
        entry = self.data.get("phi", {}).get(scheme, {}).get(mid)
        return None if entry is None else _value(entry["mean"], entry.get("ci"))

    def phi_by_block(self, scheme: str, mid: str = "exact_mid") -> list[float]:
        """The same at each of `blocks`; empty where it was not measured."""
        entry = self.data.get("phi", {}).get(scheme, {}).get(mid)
        return [] if entry is None else [float(part) for part in entry["by_block"]]

    def by_hookpoint(self, name: str) -> dict[str, float]:
        """A figure at each hookpoint, in forward order; empty where it was not measured."""
        return dict(self.data.get("by_hookpoint", {}).get(name, {}))

    def by_block(self, name: str) -> list[float]:
        """A figure at each of `blocks`; empty where it was not measured."""
        return list(self.data.get("by_block", {}).get(name, []))


def runs_of(results: Mapping[str, Any]) -> list[Run]:
    """The runs of results.json, the one trained for reconstruction only first.

    Raises CrossproofError if there are none, or the schema is not the one this code knows.
    """
    if results.get("schema", 1) != 1:
        raise CrossproofError(
            f"results.json has schema {results['schema']}, and this version reads schema 1: use "
            "the version of crossproof that wrote it."
        )
    entries = list(results.get("runs", {}).items())
    if not entries:
        raise CrossproofError("results.json holds no runs: evaluate at least one crosscoder.")
    entries.sort(key=lambda entry: entry[1].get("objective") != "reconstruction only")
    return [Run(name, place, data) for place, (name, data) in enumerate(entries)]


def mids_of(runs: Sequence[Run]) -> list[str]:
    """The kinds of resid_mid for which any run has fidelities."""
    return [mid for mid in MID_LABELS if any(run.phi("none", mid) for run in runs)]


def short_hookpoint(name: str) -> str:
    """`blocks.3.hook_resid_pre` as `3 resid_pre`, for axes."""
    return name.removeprefix("blocks.").replace("hook_", "").replace(".", " ")


def _value(mean: float | None, ends: Sequence[float] | None) -> Value | None:
    if mean is None or math.isnan(mean):
        return None
    if ends is None or any(math.isnan(end) for end in ends):
        return Value(float(mean))
    return Value(float(mean), float(ends[0]), float(ends[1]))
