"""Massive activations: the few positions whose norm dwarfs all others (Sun et al. 2024).

Their definition is of single numbers: above 100, and above 1,000 times the median size. Here a
position counts as massive where its norm exceeds `MASSIVE` times the hookpoint's median norm: norms
are what scales, losses and FVU are made of, and no number of 100 means the same in every model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.config import MASSIVE, PositionRule
from crossproof.activations.positions import median_norms, scored_positions, within_limits
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel
from crossproof.tables import Row, Table, count, fixed, percent

SAMPLE_ROWS = 16
"""Rows of a text that are looked through."""
SHOWN = 12
"""Rows of the table at most."""


@dataclass(frozen=True)
class MassiveActivation:
    """The massive positions of one hookpoint that share a token, or are the first of their row."""

    hookpoint: str
    position: int
    """Of the largest among them, in its row."""
    token: str
    """The token there."""
    count: int
    """How many there are in the sample."""
    ratio: float
    """The largest norm over the hookpoint's median norm."""
    energy: float
    """Share of Σ‖x‖²: of the positions that count, or of all positions if it is left out."""
    scored: bool
    """Whether these positions count in training and evaluation."""


@dataclass(frozen=True)
class NormSurvey:
    """What the first rows of a text say about norms at each hookpoint."""

    medians: tuple[float, ...] = ()
    """Median norm at each hookpoint, of the positions that count."""
    massive: tuple[MassiveActivation, ...] = ()
    """By their share of the energy, those that count first."""

    def limits(self, multiple: float) -> tuple[float, ...]:
        """`multiple` of the median norms, for `within_limits`."""
        return tuple(multiple * median for median in self.medians)


def survey_norms(
    model: LanguageModel,
    sequences: Int[Tensor, "S T"],
    hookpoints: Sequence[str],
    rule: PositionRule = PositionRule(),  # noqa: B008  (frozen)
) -> NormSurvey:
    """Reads the first `SAMPLE_ROWS` sequences; no scored position: no medians, nothing massive.

    Raises CrossproofError naming a hookpoint whose activations are NaN or infinite.
    """
    tokens = sequences[:SAMPLE_ROWS].to(model.device)
    norms = torch.empty((*tokens.shape, len(hookpoints)), device=model.device)

    def write(place: int, value: Tensor) -> None:
        norms[:, :, place] = value.float().norm(dim=-1)

    model.read(tokens, hookpoints, write)
    scored = scored_positions(tokens, model.special_ids, rule.skip_first)
    scored &= within_limits(norms.flatten(0, 1)[..., None], rule.norm_limits).view_as(scored)
    if not scored.any():
        return NormSurvey()
    medians = median_norms(norms[scored])
    broken = norms[scored].isfinite().all(dim=0).logical_not()
    if broken.any():
        name = hookpoints[int(broken.nonzero()[0])]
        raise CrossproofError(
            f"The activations at '{name}' are NaN or infinite, or their norms are in float32; "
            f"check the model's weights, or leave this hookpoint out."
        )
    found = [
        each
        for at, name in enumerate(hookpoints)
        for each in _massive(model, name, tokens, norms[:, :, at], float(medians[at]), scored)
    ]
    found.sort(key=lambda each: (not each.scored, -each.energy))
    return NormSurvey(tuple(medians.tolist()), tuple(found))


def _massive(
    model: LanguageModel,
    name: str,
    tokens: Int[Tensor, "S T"],
    norms: Float[Tensor, "S T"],
    median: float,
    scored: Bool[Tensor, "S T"],
) -> Iterator[MassiveActivation]:
    """One hookpoint's: the first positions of rows together, the others by token."""
    groups: dict[tuple[bool, int | None], list[tuple[float, int, int]]] = {}
    for row, position in (norms > MASSIVE * median).nonzero().tolist() if median > 0 else ():
        token = int(tokens[row, position])
        key = bool(scored[row, position]), None if position == 0 else token
        groups.setdefault(key, []).append((float(norms[row, position]), position, token))
    squares = norms.double().square()
    total = {True: float(squares[scored].sum()), False: float(squares.sum())}
    for (counts, _), members in groups.items():
        norm, position, token = max(members)
        energy = sum(size**2 for size, *_ in members) / total[counts]
        text = f"#{token}" if model.tokenizer is None else str(model.tokenizer.decode([token]))
        yield MassiveActivation(name, position, text, len(members), norm / median, energy, counts)


def massive_table(massive: Sequence[MassiveActivation]) -> Table:
    """What is massive, the largest shares of the energy first, those that count before others."""
    rows = [
        Row(
            each.hookpoint,
            (each.position, repr(each.token), each.count, each.ratio, each.energy, each.scored),
            style=(count, str, count, fixed(0), percent, str),
        )
        for each in massive[:SHOWN]
    ]
    columns = ("position", "token", "how many", "times the median norm", "of the energy", "counts")
    more = f"{len(massive) - SHOWN} more are not shown. " if len(massive) > SHOWN else ""
    note = (
        f"{more}Norms above {MASSIVE:g} times the median, in the first {SAMPLE_ROWS} sequences; "
        f"`train --drop-outliers {MASSIVE:g}` leaves out those that count."
    )
    return Table("Massive activations", columns, tuple(rows), "hookpoint", note)
