"""One pass over a text: pair sums over all of it, and totals of each sequence for intervals."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.bootstrap import Sums
from crossproof.evaluation.measure import mlp_views
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.matrix import Accumulator, Interactions
from crossproof.interactions.measuring import TokenPairs, token_pairs
from crossproof.interactions.penalty import dominant_share
from crossproof.lm.model import LanguageModel

LED = 0.9
"""A neuron is led at a token if one latent carries more than this share of its magnitudes."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one pass found."""

    interactions: Interactions
    totals: Sums
    """Per-sequence sums [S, L] of every form and of `led` neurons, and [S] `tokens`."""
    led_of: tuple[int, ...]
    """Neurons of each block: `led` is out of tokens times these."""
    seconds: dict[str, float]
    """Time spent on `encode` (language model and encoder) and on `interactions`."""


def measure(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    batch_sequences: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Measurement:
    """Interactions over every scored position of `sequences`, in memory that does not grow with S.

    `progress` is called with sequences done and their number. Raises CrossproofError if there are
    no tokens, or the crosscoder has no decoder at any MLP's input.
    """
    views = mlp_views(model, crosscoder)
    running, seconds = Accumulator(), {"encode": 0.0, "interactions": 0.0}
    rows: list[dict[str, NDArray[np.float64]]] = []
    began = time.perf_counter()
    for batch in encode_batches(model, crosscoder, sequences, batch_sequences):
        encoded = time.perf_counter()
        found = token_pairs(batch.latents, views)
        running.add(found.collected())
        rows.append(_by_sequence(found, views, batch))
        if progress is not None:
            progress(batch.first + len(batch.tokens), len(sequences))
        seconds["encode"] += encoded - began
        began = time.perf_counter()
        seconds["interactions"] += began - encoded
    interactions = running.result() if rows else None
    if interactions is None or interactions.tokens == 0:
        raise CrossproofError("There are no tokens to measure: give a text with ordinary tokens.")
    totals = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    neurons = tuple(view.mlp.n_neurons for view in views.values())
    return Measurement(interactions, totals, neurons, seconds)


def _by_sequence(
    found: TokenPairs, views: dict[int, MLPDictionary], batch: EncodedBatch
) -> dict[str, NDArray[np.float64]]:
    sequence, count = batch.sequence, len(batch.tokens)
    tokens = torch.ones(len(sequence), dtype=torch.float64, device=sequence.device)
    led = [
        (dominant_share(views[block], found.latents, who) > LED).double().sum(1)
        for block, who in zip(found.blocks, found.dominance, strict=True)
    ]
    per_token: dict[str, Tensor] = {"led": torch.stack(led, 1), "tokens": tokens}
    per_token.update(found.token_totals().items())
    return {name: _summed(values, sequence, count) for name, values in per_token.items()}


def _summed(
    values: Float[Tensor, "B *parts"], sequence: Int[Tensor, " B"], count: int
) -> NDArray[np.float64]:
    out = torch.zeros((count, *values.shape[1:]), dtype=torch.float64, device=values.device)
    summed: NDArray[np.float64] = out.index_add_(0, sequence, values.double()).cpu().numpy()
    return summed
