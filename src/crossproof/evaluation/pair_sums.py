"""One pass over a text: pair sums over all of it, and totals of each sequence for intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches, for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.intervals import Sums
from crossproof.interactions.config import MLPs
from crossproof.interactions.matrix import Accumulator, Interactions
from crossproof.interactions.measuring import SeenDominance, TokenPairs, token_pairs
from crossproof.interactions.penalty import dominant_share
from crossproof.interactions.views import (
    MLPView,
    described,
    is_upstream,
    mlp_views,
    n_neurons,
    needs_of,
    read_by,
)
from crossproof.lm.model import LanguageModel
from crossproof.working import told

DOMINATED = 0.9
"""A neuron is dominated at a token if one latent carries more than this share of its magnitudes."""


@dataclass(frozen=True, eq=False)
class InteractionTally:
    """The sums of one pass over a text."""

    interactions: Interactions
    """On the CPU, whatever the model's device."""
    totals: Sums
    """Per-sequence sums [S, L] of every form, of `dominated` neurons and, of a dictionary of the
    stream, of the norm's own interaction `norm` (all latents taken out), and [S] `tokens`."""
    neurons: tuple[int, ...]
    """Neurons of each block: `dominated` is out of tokens times these."""
    seconds: dict[str, float]
    """Time spent on `encode` (language model and encoder) and on `interactions`."""
    encoded: tuple[EncodedBatch, ...]
    """The batches that begin in the first `kept_sequences`, without activations."""
    views: dict[str, str]
    """By block: where its MLP reads the crosscoder."""


def tally_interactions(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    batch_sequences: int = 16,
    progress: Callable[[int, int], None] | None = None,
    kept_sequences: int = 0,
    mlps: MLPs = "next",
) -> InteractionTally:
    """Interactions over every scored position of `sequences`, in memory that does not grow with S.

    `progress` is called with sequences done and their number. Raises CrossproofError if there are
    no tokens, or no MLP reads the crosscoder.
    """
    crosscoder = for_figures(crosscoder)
    views = mlp_views(model, crosscoder, mlps, mixtures=True)
    running, seconds = Accumulator(), {"encode": 0.0, "interactions": 0.0}
    rows: list[dict[str, NDArray[np.float64]]] = []
    kept: list[EncodedBatch] = []
    began = time.perf_counter()
    needs = needs_of(views)
    batches = encode_batches(model, crosscoder, sequences, batch_sequences, needs)
    for batch in told(batches, lambda each: each.end, len(sequences), progress):
        encoded = time.perf_counter()
        seen = read_by(views, batch)
        pairs = token_pairs(batch.latents, seen)
        running.add(pairs.collected())
        rows.append(by_sequence(pairs, batch) | _norms_own(views, batch))
        if batch.first < kept_sequences:
            kept.append(batch.latents_only(needs))
        seconds["encode"] += encoded - began
        began = time.perf_counter()
        seconds["interactions"] += began - encoded
    interactions = running.result().cpu() if rows else None
    if interactions is None or interactions.tokens == 0:
        raise CrossproofError("There are no tokens to measure: give a text with ordinary tokens.")
    totals = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    neurons = tuple(map(n_neurons, views.values()))
    where = {str(block): described(view, crosscoder) for block, view in views.items()}
    return InteractionTally(interactions, totals, neurons, seconds, tuple(kept), where)


def _dominated(parts: Sequence[SeenDominance], n_tokens: int) -> Float[Tensor, " B"]:
    """How many neurons are dominated at each token, of an MLP or of all experts."""
    counts: list[Tensor] = []
    for part in parts:
        share = dominant_share(part.view.dictionary, part.view.latents, part.who)
        counts.append((share > DOMINATED).double().sum(1))
    if parts[0].tokens is None:
        return counts[0]
    out = counts[0].new_zeros(n_tokens)
    for part, count in zip(parts, counts, strict=True):
        assert part.tokens is not None
        out.index_add_(0, part.tokens, count)
    return out


def _norms_own(views: Mapping[int, MLPView], batch: EncodedBatch) -> dict[str, NDArray[np.float64]]:
    """T7 at each MLP, zero at one that is read at its input; nothing if all are."""
    if not any(map(is_upstream, views.values())):
        return {}
    nothing = batch.x.new_zeros(len(batch.x))
    columns = [
        view.norm_interaction(batch, singles=False)[:, 0] if is_upstream(view) else nothing
        for view in views.values()
    ]
    return {"norm": batch.per_sequence(torch.stack(columns, 1)).cpu().numpy()}


def by_sequence(pairs: TokenPairs, batch: EncodedBatch) -> dict[str, NDArray[np.float64]]:
    """Of each sequence the sums [S, L] of every form and of dominated neurons, and [S] tokens."""
    dominated = [_dominated(parts, len(batch.x)) for parts in pairs.dominance]
    per_token: dict[str, Tensor] = {
        "dominated": torch.stack(dominated, 1),
        "tokens": torch.ones_like(batch.sequence, dtype=torch.float64),
    }
    per_token.update(pairs.token_totals().items())
    return {name: batch.per_sequence(values).cpu().numpy() for name, values in per_token.items()}
