"""Where pairs of latents interact most: the texts behind the sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.evaluation.contexts import Context, Peak, context_of
from crossproof.evaluation.measure import mlp_views
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.measuring import COLUMNS, TokenPairs, token_pairs
from crossproof.interactions.second_differences import PairSums, second_difference_sums
from crossproof.lm.model import LanguageModel


@dataclass(frozen=True)
class PairExample:
    """Two latents and the texts in which they interact most."""

    latents: tuple[int, int]
    contexts: tuple[Context, ...]
    """Strongest first, at most one a sequence; the context's activations are I of the pair, both
    directions and all blocks together, at each token."""
    second_difference: float
    """sum_n ‖o_n‖ |δ²_n| at the token's other latents, all blocks together, mean over the tokens
    at which both are active: the true non-additivity that I and J bound."""


def pair_examples(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    pairs: Sequence[tuple[int, int]],
    contexts: int = 3,
    window: int = 12,
    batch_sequences: int = 16,
) -> list[PairExample]:
    """The texts among `sequences` where each pair's interaction is largest, in the given order."""
    views = mlp_views(model, crosscoder)
    best: list[list[tuple[Peak, Context]]] = [[] for _ in pairs]
    differences: PairSums | None = None
    if not pairs:
        return []
    chosen = torch.tensor(pairs, device=model.device)
    for batch in encode_batches(model, crosscoder, sequences, batch_sequences):
        found = token_pairs(batch.latents, views)
        part = _differences(batch, views, chosen)
        differences = part if differences is None else differences + part
        for (h, k), kept in zip(pairs, best, strict=True):
            values = _at_tokens(found, batch, min(h, k), max(h, k))
            highest, positions = values.max(1)
            for row in highest.nonzero()[:, 0].tolist():
                peak = Peak(-float(highest[row]), batch.first + row, int(positions[row]))
                if len(kept) < contexts or peak < kept[-1][0]:
                    text = context_of(model, batch.tokens, values, peak, batch.first, window)
                    kept.append((peak, text))
                    kept.sort(key=lambda entry: entry[0])
                    del kept[contexts:]
    assert differences is not None
    means = (differences.neurons / differences.tokens.clamp_min(1)).tolist()
    return [
        PairExample(pair, tuple(context for _, context in kept), mean)
        for pair, kept, mean in zip(pairs, best, means, strict=True)
    ]


def _differences(
    batch: EncodedBatch, views: dict[int, MLPDictionary], pairs: Int[Tensor, "M 2"]
) -> PairSums:
    """Second differences summed over blocks; `tokens` counts each token once."""
    code = batch.latents
    parts = [second_difference_sums(view, code, pairs, "others") for view in views.values()]
    neurons = torch.stack([part.neurons for part in parts]).sum(0)
    output = torch.stack([part.output for part in parts]).sum(0)
    return PairSums(pairs, parts[0].tokens, neurons, output)


def _at_tokens(found: TokenPairs, batch: EncodedBatch, h: int, k: int) -> Float[Tensor, "S T"]:
    """I(h,k) + I(k,h) of one pair at every position, all blocks together."""
    latents, (first, second) = found.latents, found.entries
    mask = (latents.indices[first] == h) & (latents.indices[second] == k)
    flat = torch.zeros(latents.n_tokens, dtype=torch.float64, device=mask.device)
    both = found.sums[mask][..., COLUMNS["I"]].sum((1, 2))
    flat.index_add_(0, latents.token_index[first[mask]], both)
    values = flat.new_zeros(batch.tokens.shape)
    values[batch.scored] = flat
    return values
