"""From per-sequence sums to figures with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.crosscoder.model import Crosscoder
from crossproof.evaluation.bootstrap import Estimate, Sums, estimate
from crossproof.evaluation.schemes import SCHEMES
from crossproof.evaluation.tally import MIDS, SHARE_BINS, EvaluationOptions, Tally

Array = NDArray[np.float64]


def summarise(
    crosscoder: Crosscoder, blocks: tuple[int, ...], tally: Tally, options: EvaluationOptions
) -> dict[str, Any]:
    """The figures of one run, in the schema of docs/results-format.md."""
    sums, written = tally.joined(), list(crosscoder.written)
    names = [crosscoder.hookpoints.names[place] for place in written]
    places = (crosscoder.hookpoints.blocks[b].mlp_in for b in blocks)
    mlp_in = [place for place in places if place is not None]

    def interval(statistic: Any) -> Estimate:
        return estimate(sums, statistic, options.resamples, options.seed)

    figures: dict[str, Estimate] = {
        "l0": interval(lambda t: _per_token(t, "active")[:, None]),
        "fvu": interval(lambda t: _fvu(t)[:, written]),
    }
    result: dict[str, Any] = {"sequences": len(sums["tokens"]), "tokens": int(sums["tokens"].sum())}
    if blocks:
        figures["fvu_mlp_in"] = interval(lambda t: _fvu(t)[:, mlp_in])
        figures["dominant_share"] = interval(lambda t: _per_token(t, "share"))
        figures["interaction"] = interval(lambda t: _per_token(t, "interaction"))
        figures["residual"] = interval(lambda t: _per_token(t, "residual"))
    if "additive" in sums:
        figures["additive_interaction"] = interval(lambda t: _per_token(t, "additive"))
    if "ce-patch" in sums:
        figures["ce_recovered"] = interval(lambda t: _recovered(t, "ce"))
        figures["kl_recovered"] = interval(lambda t: _recovered(t, "kl"))
    for name, figure in figures.items():
        result[name] = figure.mean
    result["dead"] = float((tally.fired == 0).double().mean()) if tally.fired is not None else 0.0
    result["model_loss"] = float(sums["loss"].sum() / sums["predicted"].sum())
    result["intervals"] = {name: list(figure.ci) for name, figure in figures.items()}
    result["by_hookpoint"] = {
        name: dict(zip(names, figures[name].parts, strict=True))
        for name in ("fvu", "ce_recovered", "kl_recovered")
        if name in figures
    }
    result["by_block"] = {
        name: figures[name].parts
        for name in (
            "fvu_mlp_in",
            "dominant_share",
            "interaction",
            "additive_interaction",
            "residual",
        )
        if name in figures
    }
    result["blocks"] = list(blocks)
    result["phi"], result["phi_mlp_removed"] = (
        {
            scheme: {
                mid: _as_dict(interval(_phi(mid, scheme, zero)))
                for mid in MIDS
                if f"phi/{mid}/{scheme}" in sums
            }
            for scheme in SCHEMES
        }
        for zero in ("features-removed", "mlp-removed")
    )
    if tally.histogram is not None:
        share = tally.histogram / tally.histogram.sum(1, keepdim=True)
        edges = np.linspace(0, 1, SHARE_BINS + 1)
        result["share_histogram"] = {"edges": edges.tolist(), "by_block": share.tolist()}
    return result


def _as_dict(figure: Estimate) -> dict[str, Any]:
    return {"mean": figure.mean, "ci": list(figure.ci), "by_block": figure.parts}


def _per_token(totals: Sums, name: str) -> Array:
    count = totals["tokens"]
    values = totals[name]
    return values / (count if values.ndim == 1 else count[:, None])


def _fvu(totals: Sums) -> Array:
    """Fraction of variance unexplained at each hookpoint."""
    mean_square = (totals["total"] ** 2).sum(-1) / totals["tokens"][:, None]
    unexplained: Array = totals["error"] / (totals["square"] - mean_square)
    return unexplained


def _recovered(totals: Sums, kind: str) -> Array:
    """1 - (patched - clean) / (zero - clean) at each hookpoint; the clean KL is zero."""
    clean = totals["loss"][:, None] if kind == "ce" else 0.0
    recovered: Array = 1 - (totals[f"{kind}-patch"] - clean) / (totals[f"{kind}-zero"] - clean)
    return recovered


def _phi(mid: str, scheme: str, zero: str) -> Any:
    def statistic(totals: Sums) -> Array:
        clean = totals["loss"][:, None]
        patched, removed = totals[f"phi/{mid}/{scheme}"], totals[f"phi/{mid}/{zero}"]
        return 1 - (patched - clean) / (removed - clean)

    return statistic
