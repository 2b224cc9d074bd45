"""Where pairs of latents interact most, and how far they are from additive there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crossproof.crosscoder.encode import EncodedBatch
from crossproof.crosscoder.latents import SparseLatents
from crossproof.evaluation.contexts import Context, StrongestContexts
from crossproof.interactions.coalitions import output_game
from crossproof.interactions.measuring import COLUMNS, TokenPairs, token_pairs
from crossproof.interactions.second_differences import second_difference_sums
from crossproof.interactions.shapley import EXACT_PLAYERS, shapley_taylor
from crossproof.interactions.stream import TokenMixture, TokenView, experts_by_mlps
from crossproof.interactions.views import MLPView, read_by
from crossproof.working import told

COALITIONS = 512
"""At least so many are drawn for Shapley-Taylor where there are too many latents for all."""
MOST_PLAYERS = 32
"""Tokens with more active latents are left out: estimates would take seconds each."""


@dataclass(frozen=True, eq=False)
class PairExample:
    """Two latents and the texts in which they interact most."""

    latents: tuple[int, int]
    contexts: tuple[Context, ...]
    """Strongest first, at most one a sequence; the context's activations are I of the pair, both
    directions and all blocks together, at each token."""
    second_difference: float
    """sum_n ‖o_n‖ |δ²_n| at the token's other latents, all blocks together, mean over the tokens
    at which both are active: the true non-additivity that I and J bound."""
    peaks: tuple[dict[int, TokenView | TokenMixture], ...]
    """What every block's MLP sees of the token at the peak of each context."""


def pair_examples(
    tokenizer: PreTrainedTokenizerBase | None,
    batches: Iterable[EncodedBatch],
    views: Mapping[int, MLPView],
    pairs: Sequence[tuple[int, int]],
    contexts: int = 3,
    window: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> list[PairExample]:
    """The texts among `batches` where each pair's interaction is largest, in the given order.

    `progress` is called with sequences done and their number.
    """
    if not pairs:
        return []
    read = list(batches)
    best = [StrongestContexts(contexts, window) for _ in pairs]
    chosen = torch.tensor(pairs, device=read[0].tokens.device)
    differences = torch.zeros(len(pairs), dtype=torch.float64, device=chosen.device)
    together = torch.zeros(len(pairs), dtype=torch.int64, device=chosen.device)
    for batch in told(read, lambda each: each.end, read[-1].end, progress):
        active = _coactive(batch.latents, pairs)
        if not active.any():
            continue
        together += active.sum(1)
        some = batch.take(active.any(0).nonzero()[:, 0])  # no pair interacts at other tokens
        seen = read_by(views, some)
        measured = token_pairs(some.latents, seen)
        for experts, _ in experts_by_mlps(some.latents, seen).values():
            for view in (each.view for each in experts):
                here = view.dictionary, view.latents
                sums = second_difference_sums(*here, chosen, "others", view.weight)
                differences += sums.neurons
        for (h, k), strongest in zip(pairs, best, strict=True):
            strongest.add(tokenizer, some, _at_tokens(measured, some, min(h, k), max(h, k)))
    means = (differences / together.clamp_min(1)).tolist()
    return [
        PairExample(pair, strongest.contexts, mean, _peaks(strongest, read, views))
        for pair, strongest, mean in zip(pairs, best, means, strict=True)
    ]


def _coactive(latents: SparseLatents, pairs: Sequence[tuple[int, int]]) -> Bool[Tensor, "M B"]:
    """The tokens at which both latents of each pair are active."""
    active: dict[int, Tensor] = {}
    for latent in dict.fromkeys(latent for pair in pairs for latent in pair):
        at = (latents.indices == latent) & (latents.values != 0)
        active[latent] = torch.zeros(latents.n_tokens, dtype=torch.bool, device=at.device)
        active[latent][latents.token_index[at]] = True
    return torch.stack([active[h] & active[k] for h, k in pairs])


def _at_tokens(measured: TokenPairs, batch: EncodedBatch, h: int, k: int) -> Float[Tensor, "S T"]:
    """I(h,k) + I(k,h) of one pair at every position, all blocks together."""
    latents, (first, second) = measured.latents, measured.entries
    mask = (latents.indices[first] == h) & (latents.indices[second] == k)
    flat = torch.zeros(latents.n_tokens, dtype=torch.float64, device=mask.device)
    both = measured.sums[mask][..., COLUMNS["I"]].sum((1, 2))
    flat.index_add_(0, latents.token_index[first[mask]], both)
    values = flat.new_zeros(batch.tokens.shape)
    values[batch.scored] = flat
    return values


def _peaks(
    strongest: StrongestContexts, batches: Sequence[EncodedBatch], views: Mapping[int, MLPView]
) -> tuple[dict[int, TokenView | TokenMixture], ...]:
    rows = []
    for peak, _ in strongest.entries:
        batch = next(b for b in reversed(batches) if b.first <= peak.sequence)
        alone = batch.of_position(peak.sequence - batch.first, peak.position)
        rows.append(read_by(views, alone))
    return tuple(rows)


def pair_shapley(
    tokens: Sequence[Mapping[int, TokenView | TokenMixture]], pair: tuple[int, int]
) -> float | None:
    """Σ over blocks of ‖φ_hk‖ of the MLP's output, mean over single tokens; None without any.

    Exact up to 12 active latents (THEORY T2.2: φ summed over pairs is the additive model's error);
    with up to 32, estimated if the package shapiq is installed. Other tokens are left out, and
    mixtures of experts, whose output is no one MLP's.
    """
    estimable = importlib.util.find_spec("shapiq") is not None
    most = MOST_PLAYERS if estimable else EXACT_PLAYERS
    sizes = [
        sum(_shapley(view, pair) for view in seen)
        for seen in map(_dense, tokens)
        if seen and all(int((view.latents.values != 0).sum()) <= most for view in seen)
    ]
    return sum(sizes) / len(sizes) if sizes else None


def _dense(seen: Mapping[int, TokenView | TokenMixture]) -> list[TokenView]:
    """The views of a token, if none is of a mixture."""
    views = [view for view in seen.values() if isinstance(view, TokenView)]
    return views if len(views) == len(seen) else []


def _shapley(seen: TokenView, pair: tuple[int, int]) -> float:
    game = output_game(seen.dictionary, seen.latents, 0)
    players = game.players.tolist()
    m = len(players)
    index = shapley_taylor(game, max(COALITIONS, 2 * (m * m + m + 2)))
    h, k = map(players.index, pair)
    return float(seen.weighed(index.matrix[h, k][None]))
