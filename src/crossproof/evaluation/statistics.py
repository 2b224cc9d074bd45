"""Figures as functions of totals: sums over sequences in, one number a part out.

Totals carry a leading axis of resamples: [R, ...] in, [R, parts] out. Parts are hookpoints for
FVU and recovery, blocks for what is measured at MLPs; a figure is the mean over its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from crossproof.evaluation.intervals import Sums
from crossproof.evaluation.tally import BEYOND

Array = NDArray[np.float64]
Statistic = Callable[[Sums], Array]

PER_TOKEN = {
    "dominant_share": "share",
    "interaction": "interaction",
    "residual": "residual",
    "additive_interaction": "additive",
    "norm_interaction": "norm-all",
    "norm_interaction_single": "norm-single",
}
"""Figures that are means over tokens at each block, and the sums behind them."""


def available(sums: Sums, mlp_in: Sequence[int]) -> dict[str, Statistic]:
    """The figures beside Φ that `sums` allow, by their names in results.json.

    `mlp_in`: which hookpoints are inputs of MLPs.
    """
    columns = list(mlp_in)
    figures: dict[str, Statistic] = {"l0": lambda t: per_token(t, "active")[:, None], "fvu": fvu}
    if "tokens" + BEYOND in sums:
        figures["fvu_without_outliers"] = fvu_without_outliers
    if columns:
        figures["fvu_mlp_in"] = lambda t: fvu(t)[:, columns]
    for name, behind in PER_TOKEN.items():
        if behind in sums:
            figures[name] = lambda t, behind=behind: per_token(t, behind)  # type: ignore[misc]
    if "ce-patch" in sums:
        figures["ce_recovered"] = lambda t: recovered(t, "ce")
        figures["kl_recovered"] = lambda t: recovered(t, "kl")
    return figures


def per_token(totals: Sums, name: str) -> Array:
    """A sum over scored tokens, a token."""
    count = totals["tokens"]
    values = totals[name]
    return values / (count if values.ndim == 1 else count[:, None])


def fvu(totals: Sums) -> Array:
    """Fraction of variance unexplained at each hookpoint."""
    mean_square = (totals["total"] ** 2).sum(-1) / totals["tokens"][:, None]
    unexplained: Array = totals["error"] / (totals["square"] - mean_square)
    return unexplained


def fvu_without_outliers(totals: Sums) -> Array:
    """FVU of the positions that are massive at no hookpoint."""
    names = "tokens", "error", "square", "total"
    return fvu({name: totals[name] - totals[name + BEYOND] for name in names})


def recovered(totals: Sums, kind: str) -> Array:
    """1 - (patched - clean) / (zero - clean) at each hookpoint; the clean KL is zero."""
    clean = totals["loss"][:, None] if kind == "ce" else 0.0
    share: Array = 1 - (totals[f"{kind}-patch"] - clean) / (totals[f"{kind}-zero"] - clean)
    return share


def phi(mid: str, scheme: str, zero: str = "features-removed") -> Statistic:
    """Φ of a scheme at each block; `zero`: features-removed or mlp-removed.

    Not defined (NaN) where all latents do to the bit what none do: no latent is active there.
    """

    def statistic(totals: Sums) -> Array:
        clean = totals["loss"][:, None]
        patched, removed = totals[f"phi/{mid}/{scheme}"], totals[f"phi/{mid}/{zero}"]
        nothing = removed == totals.get(f"phi/{mid}/none", np.nan)
        share: Array = 1 - (patched - clean) / np.where(nothing, np.nan, removed - clean)
        return share

    return statistic
