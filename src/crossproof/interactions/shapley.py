"""Shapley–Taylor interactions of order 2 between the active latents of one token.

With m players and δ(S) = v(S ∪ ij) - v(S ∪ i) - v(S ∪ j) + v(S),

    φ_ij = (2 / m) sum over S without i, j of δ(S) / C(m - 1, |S|),   φ_i = v({i}) - v(∅)

(Sundararajan, Dhamdhere and Agarwal, ICML 2020). They share v(all) - v(∅) out exactly:
sum_i φ_i + sum_{i<j} φ_ij. With v the MLP's output, the sum over pairs is therefore the error
MLP(x̂) - MLP_add of the additive model (THEORY T2.2).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.interactions.pairs import Pairs

EXACT_PLAYERS = 12
"""Up to so many players all coalitions are evaluated: 4,096."""

_COALITIONS = 2**12
"""Coalitions that are evaluated and weighed at a time."""

CoalitionValue = Callable[[Tensor], Tensor]
"""From coalitions, bool [C, m], to their values [C], or [C, D] of D coordinates."""


@dataclass(frozen=True, eq=False)
class Game:
    """A value for every set of a token's active latents."""

    players: Int[Tensor, " m"]
    """Latents; player i of a coalition is `players[i]`."""
    value: CoalitionValue
    name: str
    """What the value is."""
    baseline: str = "all latents removed: the decoder bias b"
    """What the empty coalition stands for."""


@dataclass(frozen=True, eq=False)
class ShapleyTaylor:
    """Shapley–Taylor indices of one game, in the units of its value."""

    players: Int[Tensor, " m"]
    matrix: Float[Tensor, "m m"]
    """φ_ij, symmetric with zero diagonal; of a game of D coordinates ‖φ_ij‖."""
    first: Float[Tensor, " m"]
    """φ_i = v({i}) - v(∅); of a game of D coordinates ‖φ_i‖."""
    value: str
    baseline: str
    coalitions: int
    """How many coalitions were evaluated."""
    exact: bool
    seed: int | None
    """Of the draw of coalitions; None if exact."""
    index: str = "Shapley-Taylor, order 2"


def shapley_taylor(
    game: Game, budget: int | None = None, seed: int = 0, exact_players: int = EXACT_PLAYERS
) -> ShapleyTaylor:
    """Shapley–Taylor indices of order 2, exact up to `exact_players` players, else estimated.

    The estimate evaluates `budget` coalitions; it is exact again if they are all there are. A
    game of D coordinates gets its indices in each of them from the same coalitions, and their
    norms over coordinates are returned. Raises CrossproofError for a game without players, more
    players than `exact_players` without a budget, a budget too small and values not finite.
    """
    m = len(game.players)
    if m == 0:
        raise CrossproofError(
            f"No latent is active, so '{game.name}' has no players; choose a token with some."
        )
    exact = m <= exact_players or (budget is not None and budget >= 2**m)
    if exact:
        coalitions = all_coalitions(m)
        weights = torch.ones(len(coalitions), dtype=torch.float64)
    else:
        coalitions, weights = _sample(m, budget, seed, exact_players)
    parts = coalitions.to(game.players.device).split(_COALITIONS)
    values = torch.cat([game.value(part).detach().double().cpu() for part in parts])
    if not values.isfinite().all():
        raise CrossproofError(f"'{game.name}' is NaN or infinite for some sets of latents.")
    columns = values.reshape(len(coalitions), -1)
    first, pairs = _indices(coalitions, weights, columns, exact)
    matrix = torch.zeros(m, m, dtype=torch.float64)
    one, other = torch.triu_indices(m, m, 1)
    if values.ndim > 1:
        first, pairs = (part.norm(dim=1, keepdim=True) for part in (first, pairs))
    matrix[one, other] = matrix[other, one] = pairs[:, 0]
    described = game.name, game.baseline, len(coalitions), exact, None if exact else seed
    return ShapleyTaylor(game.players, matrix, first[:, 0], *described)


@dataclass(frozen=True, eq=False)
class ShapleySums:
    """|φ_ij| of M pairs, summed over the tokens at which both latents are players."""

    pairs: Int[Tensor, "M 2"]
    tokens: Int[Tensor, " M"]
    total: Float[Tensor, " M"]


def absolute_sums(
    results: Iterable[ShapleyTaylor], pairs: Int[Tensor, "M 2"], n_latents: int
) -> ShapleySums:
    """Sums of |φ_ij| over tokens: absolute values come first, so that signs do not cancel.

    Raises CrossproofError if the results are of different values, or for pairs outside the
    dictionary.
    """
    chosen = Pairs(pairs, n_latents)
    total = torch.zeros(chosen.n_distinct, dtype=torch.float64)
    tokens = torch.zeros(chosen.n_distinct, dtype=torch.int64)
    names = set()
    for result in results:
        names.add((result.value, result.baseline))
        if len(names) > 1:
            several = " and ".join(f"'{name}'" for name, _ in sorted(names))
            raise CrossproofError(f"Indices of different values cannot be added up: {several}.")
        m = len(result.players)
        one, other = torch.triu_indices(m, m, 1)
        row = chosen.find(result.players[one], result.players[other]).cpu()
        known = row >= 0
        total.index_add_(0, row[known], result.matrix[one, other][known].abs())
        tokens += torch.bincount(row[known], minlength=len(tokens))
    return ShapleySums(pairs, chosen.spread(tokens), chosen.spread(total))


def all_coalitions(m: int) -> Bool[Tensor, "C m"]:
    """All 2^m sets of m players; bit i of the row's number: player i."""
    return (torch.arange(2**m)[:, None] >> torch.arange(m) & 1).bool()


def pair_shares(coalitions: Bool[Tensor, "C m"]) -> Float[Tensor, "C pairs"]:
    """±2 / (m C(m - 1, |T \\ ij|)): how v(T) of each coalition T counts in φ_ij, i < j; float64."""
    m = coalitions.shape[1]
    one, other = torch.triu_indices(m, m, 1)
    among = coalitions[:, one].long() + coalitions[:, other].long()
    choose = torch.tensor([math.comb(m - 1, s) for s in range(m)], dtype=torch.float64)
    return 2 / m / choose[coalitions.sum(1, keepdim=True) - among] * (1 - 2 * (among % 2))


def _sample(
    m: int, budget: int | None, seed: int, exact_players: int
) -> tuple[Bool[Tensor, "C m"], Float[Tensor, " C"]]:
    """Different coalitions and how many each stands for.

    Those of 0, 1, m - 1 and m players are always there; the others are drawn together with their
    complements, a size s in proportion to 1 / (s (m - s)).
    """
    if budget is None:
        raise CrossproofError(
            f"{m} latents are active, and indices are exact up to {exact_players}; give a budget "
            f"of coalitions to draw."
        )
    least = 2 * (1 + m + math.comb(m, 2))
    if budget < least:
        raise CrossproofError(
            f"A budget of {budget} coalitions is too small for {m} players; give {least} or more."
        )
    try:
        from shapiq.approximator.sampling import CoalitionSampler  # takes seconds to import
    except ImportError as error:
        raise CrossproofError(
            "Estimates need the package shapiq: pip install 'crossproof[shapley]'.",
            code="CP-PACKAGE",
        ) from error

    sizes = np.arange(1, m)
    likely = np.concatenate([[0], 1 / (sizes * (m - sizes)), [0]])
    likely[[0, 1, -2, -1]] = 1e6 * likely.sum()  # the sampler then takes all of them
    sampler = CoalitionSampler(m, likely, pairing_trick=True, random_state=seed)
    with warnings.catch_warnings():  # drawing nearly all coalitions takes a little longer
        warnings.simplefilter("ignore", UserWarning)
        sampler.sample(budget)
    weights = torch.from_numpy(sampler.sampling_adjustment_weights)
    return torch.from_numpy(sampler.coalitions_matrix), weights


def _indices(
    coalitions: Bool[Tensor, "C m"],
    weights: Float[Tensor, " C"],
    values: Float[Tensor, "C D"],
    exact: bool,
) -> tuple[Float[Tensor, "m D"], Float[Tensor, "pairs D"]]:
    """φ_i and φ_ij, i < j: sums over coalitions T of their `pair_shares` times v(T).

    An estimate is made for what is left of v after the least-squares fit of a game with pairs
    only, whose φ_ij are its coefficients: the less is left, the less chance matters.
    """
    m, sizes = coalitions.shape[1], coalitions.sum(1)
    alone = coalitions[sizes == 1].long().argmax(1).argsort()
    first = values[sizes == 1][alone] - values[sizes == 0]
    one, other = torch.triu_indices(m, m, 1)
    pairs = values.new_zeros(len(one), values.shape[1])
    if not exact:
        both = coalitions[:, one] & coalitions[:, other]
        design = torch.cat([torch.ones(len(coalitions), 1), coalitions, both], 1).double()
        solution = torch.linalg.lstsq(design, values, driver="gelsd").solution
        pairs, values = solution[1 + m :], values - design @ solution
    for part in torch.arange(len(coalitions)).split(_COALITIONS):
        shares = pair_shares(coalitions[part]) * weights[part, None]
        pairs = pairs + shares.T @ values[part]
    return first, pairs
