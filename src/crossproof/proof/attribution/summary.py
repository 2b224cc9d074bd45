"""From per-token bounds to plain values with intervals: what attribution.json says."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.evaluation.intervals import Sums, estimate
from crossproof.proof.attribution.chain import Stage
from crossproof.proof.attribution.stream import CENTRED, KEPT, REFERENCES, Attribution

TOLERANCE = 1e-3
"""Nats and lengths by which the model's own float32 figures may exceed a bound by rounding."""


def summarise(found: Attribution, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The figures of one crosscoder; means carry 95% intervals over sequences."""
    result: dict[str, Any] = {
        "baselines": asdict(found.baselines),
        "attention_unbounded_because": found.why_unbounded,
        "costs": found.costs,
        "last_block": _last_block(found, resamples, seed),
    }
    if found.stages:
        rows = found.tokens
        result["tokens"] = len(rows["sequence"])
        result["sequences"] = len(rows["sequence"].unique())
        result["loss"] = {
            "true": _mean(rows["sequence"], rows["true_loss"], resamples, seed),
            "claimed": _mean(rows["sequence"], rows["claimed_loss"], resamples, seed),
        }
        result["true_radius"] = rows["true_radius"].mean(0).tolist()
        result["restarted"] = {
            name.removeprefix("restarted/"): _means(rows["sequence"], values, resamples, seed)
            for name, values in rows.items()
            if name.startswith("restarted/")
        }
        result["chains"] = {
            name: _chain(found, name, stages, resamples, seed)
            for name, stages in found.stages.items()
        }
    return result


def _chain(
    found: Attribution, name: str, stages: tuple[Stage, ...], resamples: int, seed: int
) -> dict[str, Any]:
    rows, limit = found.tokens, _limit(found)
    sequence, claimed = rows["sequence"], rows["claimed_loss"]
    radii, bounds = rows[f"{name}/radius"], rows[f"{name}/loss_bound"]
    sizes = torch.diff(radii, dim=1, prepend=torch.zeros_like(radii[:, :1]))
    first = first_vacuous(claimed, bounds, limit)
    added = _means(sequence, sizes, resamples, seed)
    loss = _means(sequence, bounds, resamples, seed)
    table = [
        {
            "stage": stage.name,
            **asdict(stage),
            "adds": added[place],
            "radius": float(radii[:, place].mean()),
            "loss_bound": loss[place],
            "first_vacuous_here": float((first == place).double().mean()),
        }
        for place, stage in enumerate(stages)
    ]
    broken = [row["stage"] for row in table if row["loss_bound"]["mean"] >= limit]
    if float(claimed.mean()) >= limit:
        broken.insert(0, "claimed loss")
    truth = rows["true_loss"]
    return {
        "loss_bound": loss[-1],
        "vacuous": found.baselines.cross_entropy_vacuous(loss[-1]["mean"]),
        "mean_first_vacuous": broken[0] if broken else None,
        "vacuous_tokens": _mean(sequence, (bounds[:, -1] >= limit).double(), resamples, seed),
        "vacuous_by_claimed_loss": float((first == -1).double().mean()),
        "never_vacuous": float((first == len(stages)).double().mean()),
        "stages": table,
        "truth": {
            key: _means(sequence, rows[f"{name.split(',')[0]}/{key}_true"], resamples, seed)
            for key in ("interaction", "norm_defect")
        },
        "violations": int((bounds[:, -1] < truth - TOLERANCE * (1 + truth)).sum()),
    }


def first_vacuous(
    claimed: Float[Tensor, " B"], bounds: Float[Tensor, "B stages"], limit: float
) -> Int[Tensor, " B"]:
    """The first stage whose bound reaches `limit`; -1 if the claim itself does, else their number.

    Each stage is judged as if nothing came after it.
    """
    vacuous = torch.cat([bounds >= limit, torch.ones_like(bounds[:, :1], dtype=torch.bool)], 1)
    first = vacuous.to(torch.int8).argmax(1)
    return torch.where(claimed >= limit, -1, first)


def _limit(found: Attribution) -> float:
    return min(found.baselines.log_classes, found.baselines.unigram_entropy)


def _last_block(found: Attribution, resamples: int, seed: int) -> dict[str, Any]:
    rows = found.last
    kept = [f"keep {m or 'all'}" for m in KEPT]
    variants = [*kept, "additive", *(name + CENTRED for name in kept)]
    return {
        reference: {
            variant: _verdict(rows, f"{reference}/{variant}", resamples, seed)
            for variant in variants
            if f"{reference}/{variant}/certified" in rows
        }
        for reference in REFERENCES
    }


def _verdict(rows: dict[str, Tensor], name: str, resamples: int, seed: int) -> dict[str, Any]:
    sequence, certified = rows["sequence"], rows[f"{name}/certified"]
    unchanged = rows[f"{name}/unchanged"]
    bound, error = rows[f"{name}/bound"], rows[f"{name}/error"]
    ceiling = rows.get(f"{name}/ceiling")  # none for what is centred: it may well be above one
    return {
        "certified": _mean(sequence, certified.double(), resamples, seed),
        "ceiling": None if ceiling is None else _mean(sequence, ceiling.double(), resamples, seed),
        "unchanged": _mean(sequence, unchanged.double(), resamples, seed),
        "terms": float(rows[f"{name}/terms"].double().mean()),
        "median_bound": float(bound.median()),
        "median_error": float(error.median()),
        # None: at most tokens the norm's scale alone can undo the margin.
        "median_excess": _finite(float(rows[f"{name}/excess"].median())),
        "violations": int((certified & ~unchanged).sum())
        + int((error > bound * (1 + TOLERANCE) + TOLERANCE).sum()),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(
    sequence: Int[Tensor, " B"], values: Float[Tensor, " B"], resamples: int, seed: int
) -> dict[str, Any]:
    return _means(sequence, values[:, None], resamples, seed)[0]


def _means(
    sequence: Int[Tensor, " B"], values: Float[Tensor, "B parts"], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Token means of every column, with their intervals over resampled sequences."""
    places, row = sequence.unique(return_inverse=True)
    sums = torch.zeros(len(places), values.shape[1], dtype=torch.float64)
    sums.index_add_(0, row.cpu(), values.double().cpu())
    counts = torch.bincount(row.cpu(), minlength=len(places)).double()
    data = {"values": sums.numpy(), "tokens": counts.numpy()}
    return [_interval(data, part, resamples, seed) for part in range(values.shape[1])]


def _interval(data: Sums, part: int, resamples: int, seed: int) -> dict[str, Any]:
    def statistic(totals: Sums) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = totals["values"][:, part] / totals["tokens"]
        return mean[:, None]

    figure = estimate(data, statistic, resamples, seed)
    return {"mean": figure.mean, "ci": list(figure.ci)}
