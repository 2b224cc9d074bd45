"""Shapley–Taylor indices of chosen pairs at a few tokens: non-additivity over all contexts."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from crossproof.interactions.coalitions import output_game
from crossproof.interactions.shapley import EXACT_PLAYERS, shapley_taylor
from crossproof.interactions.stream import TokenView

TOKENS = 2
"""Tokens a pair by default: where it interacts most."""
_COALITIONS = 512
"""At least so many are drawn where there are too many latents for all."""
_MOST_PLAYERS = 32
"""Tokens with more active latents are left out: estimates would take seconds each."""


def pair_shapley(tokens: Sequence[Mapping[int, TokenView]], pair: tuple[int, int]) -> float | None:
    """Σ over blocks of ‖φ_hk‖ of the MLP's output, mean over single tokens; None without any.

    Exact up to 12 active latents (THEORY T2.2: φ summed over pairs is the additive model's error);
    with up to 32, estimated if the package shapiq is installed. Other tokens are left out.
    """
    sizes = [_at_token(seen, pair) for seen in tokens if all(map(_possible, seen.values()))]
    return sum(sizes) / len(sizes) if sizes else None


def _at_token(seen: Mapping[int, TokenView], pair: tuple[int, int]) -> float:
    size = 0.0
    for view in seen.values():
        game = output_game(view.dictionary, view.latents, 0)
        players = game.players.tolist()
        m = len(players)
        index = shapley_taylor(game, max(_COALITIONS, 2 * (m * m + m + 2)))
        h, k = map(players.index, pair)
        size += float(index.matrix[h, k]) * (1 if view.weight is None else float(view.weight[0]))
    return size


def _possible(view: TokenView) -> bool:
    players = int((view.latents.values != 0).sum())
    if players <= EXACT_PLAYERS:
        return True
    return players <= _MOST_PLAYERS and importlib.util.find_spec("shapiq") is not None
