"""From per-token bounds to means with intervals over sequences."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.evaluation.intervals import Sums, estimate
from crossproof.proof.attribution.chain import Stage
from crossproof.proof.attribution.figures import (
    AttributedRun,
    ChainFigures,
    LossFigures,
    ReplacementFigures,
    StageFigures,
    mean_of,
)
from crossproof.proof.attribution.replacements import CENTRED, KEPT, REFERENCES
from crossproof.proof.attribution.token_bounds import TokenBounds
from crossproof.tables import Estimate

TOLERANCE = 1e-3
"""Nats and lengths by which the model's own float32 figures may exceed a bound by rounding."""


def summarise(
    bounds: TokenBounds, objective: str = "", resamples: int = 1000, seed: int = 0
) -> AttributedRun:
    """The figures of one crosscoder; means carry 95% intervals over sequences."""
    rows, last = bounds.tokens, Means(bounds.last["sequence"], resamples, seed)
    run = AttributedRun(
        objective,
        bounds.baselines,
        bounds.why_unbounded,
        bounds.costs,
        _last_block(bounds.last, last),
    )
    if not bounds.stages:
        return run
    means = Means(rows["sequence"], resamples, seed)
    restarted = {
        name.removeprefix("restarted/"): means.columns(values)
        for name, values in rows.items()
        if name.startswith("restarted/")
    }
    return dataclasses.replace(
        run,
        tokens=len(rows["sequence"]),
        sequences=len(rows["sequence"].unique()),
        loss=LossFigures(means.of(rows["true_loss"]), means.of(rows["claimed_loss"])),
        true_radius=rows["true_radius"].mean(0).tolist(),
        restarted=restarted,
        chains={
            name: _chain(run, rows, name, stages, means) for name, stages in bounds.stages.items()
        },
    )


def _chain(
    run: AttributedRun,
    rows: dict[str, Tensor],
    name: str,
    stages: tuple[Stage, ...],
    means: Means,
) -> ChainFigures:
    claimed, truth, limit = rows["claimed_loss"], rows["true_loss"], run.vacuous_from
    radii, bounds = rows[f"{name}/radius"], rows[f"{name}/loss_bound"]
    sizes = torch.diff(radii, dim=1, prepend=torch.zeros_like(radii[:, :1]))
    first = first_vacuous(claimed, bounds, limit)
    added, loss = means.columns(sizes), means.columns(bounds)
    table = [
        StageFigures(
            stage.name,
            stage.block,
            stage.part,
            stage.kind,
            adds=added[at],
            radius=float(radii[:, at].mean()),
            loss_bound=loss[at],
            first_vacuous_here=float((first == at).double().mean()),
        )
        for at, stage in enumerate(stages)
    ]
    broken = [row.stage for row in table if mean_of(row.loss_bound) >= limit]
    if float(claimed.mean()) >= limit:
        broken.insert(0, "claimed loss")
    return ChainFigures(
        loss_bound=loss[-1],
        vacuous=run.baselines.cross_entropy_vacuous(mean_of(loss[-1])),
        mean_first_vacuous=broken[0] if broken else None,
        vacuous_tokens=means.of((bounds[:, -1] >= limit).double()),
        vacuous_by_claimed_loss=float((first == -1).double().mean()),
        never_vacuous=float((first == len(stages)).double().mean()),
        stages=table,
        truth={
            key: means.columns(rows[f"{name.split(',')[0]}/{key}_true"])
            for key in ("interaction", "norm_defect")
        },
        violations=int((bounds[:, -1] < truth - TOLERANCE * (1 + truth)).sum()),
    )


def first_vacuous(
    claimed: Float[Tensor, " B"], bounds: Float[Tensor, "B stages"], limit: float
) -> Int[Tensor, " B"]:
    """The first stage whose bound reaches `limit`; -1 if the claim itself does, else their number.

    Each stage is judged as if nothing came after it.
    """
    vacuous = torch.cat([bounds >= limit, torch.ones_like(bounds[:, :1], dtype=torch.bool)], 1)
    first = vacuous.to(torch.int8).argmax(1)
    return torch.where(claimed >= limit, -1, first)


def _last_block(rows: dict[str, Tensor], means: Means) -> dict[str, dict[str, ReplacementFigures]]:
    kept = [f"keep {m or 'all'}" for m in KEPT]
    variants = [*kept, "additive", *(name + CENTRED for name in kept)]
    return {
        reference: {
            variant: _replacement(rows, f"{reference}/{variant}", means)
            for variant in variants
            if f"{reference}/{variant}/certified" in rows
        }
        for reference in REFERENCES
    }


def _replacement(rows: dict[str, Tensor], name: str, means: Means) -> ReplacementFigures:
    certified, unchanged = rows[f"{name}/certified"], rows[f"{name}/unchanged"]
    bound, error = rows[f"{name}/bound"], rows[f"{name}/error"]
    ceiling = rows.get(f"{name}/ceiling")  # none for what is centred: it may well be above one
    return ReplacementFigures(
        certified=means.of(certified.double()),
        ceiling=None if ceiling is None else means.of(ceiling.double()),
        unchanged=means.of(unchanged.double()),
        terms=float(rows[f"{name}/terms"].double().mean()),
        median_bound=float(bound.median()),
        median_error=float(error.median()),
        median_excess=float(rows[f"{name}/excess"].median()),
        violations=int((certified & ~unchanged).sum())
        + int((error > bound * (1 + TOLERANCE) + TOLERANCE).sum()),
    )


class Means:
    """Means over tokens, with 95% intervals over resampled sequences."""

    def __init__(self, sequence: Int[Tensor, " B"], resamples: int, seed: int) -> None:
        """`sequence` says which sequence each token belongs to."""
        names, self.row = sequence.cpu().unique(return_inverse=True)
        self.counts = torch.bincount(self.row, minlength=len(names)).double()
        self.resamples, self.seed = resamples, seed

    def of(self, values: Float[Tensor, " B"]) -> Estimate:
        """The mean of one value a token."""
        return self.columns(values[:, None])[0]

    def columns(self, values: Float[Tensor, "B parts"]) -> list[Estimate]:
        """The mean of every column."""
        sums = torch.zeros(len(self.counts), values.shape[1], dtype=torch.float64)
        sums.index_add_(0, self.row, values.double().cpu())
        data = {"values": sums.numpy(), "tokens": self.counts.numpy()}
        return [self._mean(data, part) for part in range(values.shape[1])]

    def _mean(self, data: Sums, part: int) -> Estimate:
        def statistic(totals: Sums) -> NDArray[np.float64]:
            mean: NDArray[np.float64] = totals["values"][:, part] / totals["tokens"]
            return mean[:, None]

        figure = estimate(data, statistic, self.resamples, self.seed)
        return Estimate(figure.mean, figure.ci)
