"""Φ as a function of how many latents every neuron keeps: the computational-sparsity curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.evaluation.intervals import Sums, estimate
from crossproof.evaluation.patching import DecodedBatch
from crossproof.evaluation.results import BlockEstimate, KeepCurve
from crossproof.evaluation.statistics import Array, Statistic, phi
from crossproof.interactions.keeping import largest_kept
from crossproof.interactions.stream import TokenMixture, TokenView
from crossproof.interactions.views import MLPView
from crossproof.lm.stream import mlp_out


def keep_counts(latents: SparseLatents) -> tuple[int, ...]:
    """m = 1, 2, 4, ... below the mean number of active latents a token."""
    mean = latents.l0()
    return tuple(2**i for i in range(1 + max(0, math.ceil(math.log2(max(mean, 1))) - 1)))


def kept_losses(
    batch: DecodedBatch, views: Mapping[int, MLPView], counts: tuple[int, ...]
) -> dict[int, Float[Tensor, "S L"]]:
    """Losses of sequences by m, where each block's MLP puts out what the m largest give it."""
    losses: dict[int, list[Tensor]] = {count: [] for count in counts}
    for block, view in views.items():
        for count, output in _outputs(view.at(batch.encoded), counts).items():
            losses[count].append(batch.losses(batch.patched(mlp_out(block), output)))
    return {count: torch.stack(parts, 1) for count, parts in losses.items()}


def _outputs(
    seen: TokenView | TokenMixture, counts: tuple[int, ...]
) -> dict[int, Float[Tensor, "B D"]]:
    """What the MLP puts out by m."""
    if isinstance(seen, TokenMixture):
        return seen.added_by_name(lambda expert: _outputs(expert.view, counts))
    kept = largest_kept(seen.dictionary, seen.latents, counts)
    return {count: seen.output(*sums) for count, sums in kept.items()}


def keep_curve(
    sums: Sums, kept: Mapping[int, list[Array]], l0: float, resamples: int, seed: int
) -> KeepCurve | None:
    """The curve and its area, with intervals over the sequences at which it was measured.

    `kept`: losses [S, L] by m; `l0`, the mean number of active latents, is where the curve ends.
    """
    if not kept:
        return None
    losses = {_name(m): np.concatenate(parts) for m, parts in kept.items()}
    size = len(losses[_name(1)])
    first = {name: values[:size] for name, values in sums.items()} | losses
    statistics: list[Statistic] = [phi("exact_mid", f"keep-{m}") for m in kept]
    statistics.append(phi("exact_mid", "none"))
    ends = (*map(float, kept), max(l0, float(max(kept))))

    def area(totals: Sums) -> Array:
        points = [statistic(totals) for statistic in statistics]
        return trapezoids(np.log2(ends), points)

    return KeepCurve(
        sequences=size,
        kept=ends,
        phi=tuple(BlockEstimate.of(estimate(first, s, resamples, seed, True)) for s in statistics),
        area=BlockEstimate.of(estimate(first, area, resamples, seed, True)),
    )


def trapezoids(at: Array, values: Sequence[Array]) -> Array:
    """The mean of a function over its range from values [R, parts] at ascending points."""
    widths = np.diff(at)
    if not widths.sum() > 0:
        return values[-1]
    parts = [w * (a + b) / 2 for w, a, b in zip(widths, values, values[1:], strict=False)]
    mean: Array = np.stack(parts).sum(0) / widths.sum()
    return mean


def _name(count: int) -> str:
    return f"phi/exact_mid/keep-{count}"
