"""From per-sequence sums to figures with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossproof.crosscoder.model import Crosscoder
from crossproof.evaluation.bootstrap import Estimate, estimate
from crossproof.evaluation.schemes import SCHEMES
from crossproof.evaluation.statistics import Statistic, available, fvu, phi
from crossproof.evaluation.tally import MIDS, SHARE_BINS, EvaluationOptions, Tally


def summarise(
    crosscoder: Crosscoder, blocks: tuple[int, ...], tally: Tally, options: EvaluationOptions
) -> dict[str, Any]:
    """The figures of one run, in the schema of docs/results-format.md."""
    sums, written = tally.joined(), list(crosscoder.written)
    names = [crosscoder.hookpoints.names[place] for place in written]
    places = (crosscoder.hookpoints.blocks[b].mlp_in for b in blocks)
    mlp_in = [place for place in places if place is not None]

    def interval(statistic: Statistic) -> Estimate:
        return estimate(sums, statistic, options.resamples, options.seed)

    # FVU means nothing where a transcoder only reads.
    statistics = available(sums, mlp_in) | {"fvu": lambda t: fvu(t)[:, written]}
    figures = {name: interval(statistic) for name, statistic in statistics.items()}
    result: dict[str, Any] = {"sequences": len(sums["tokens"]), "tokens": int(sums["tokens"].sum())}
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
                mid: _as_dict(interval(phi(mid, scheme, zero)))
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
