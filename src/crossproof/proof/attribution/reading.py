"""What the tables and the report both read from attribution.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Figures = Mapping[str, Any]
"""One crosscoder's entry of attribution.json."""


def best_chain(runs: Iterable[Figures]) -> str | None:
    """The chain with the least bound over these crosscoders; None where none has chains.

    Saturated bounds are equal but for rounding: then it is the first chain, so that crosscoders
    are compared on the same one.
    """
    found = [run["chains"] for run in runs if "chains" in run]
    if not found:
        return None

    def bound(chain: str) -> float:
        return sum(round(float(chains[chain]["loss_bound"]["mean"]), 2) for chains in found)

    shared: list[str] = [chain for chain in found[0] if all(chain in c for c in found)]
    return min(shared, key=bound)


def vacuous_from(run: Figures) -> float:
    """Nats from which a bound on the mean loss says nothing."""
    baselines = run["baselines"]
    return float(min(baselines["log_classes"], baselines["unigram_entropy"]))


def short_step(name: str) -> str:
    """`blocks.3 MLP moves` as `3 MLP moves`, for narrow tables and axes."""
    return name.removeprefix("blocks.")
