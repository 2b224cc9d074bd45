"""What one pass of the model and the crosscoder sees of a few texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.auditing.shapley import PLAYERS, shapley_pairs, strongest
from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions import mlp_views, needs_of, seen_by
from crossproof.interactions.measuring import COLUMNS, token_pairs
from crossproof.interactions.stream import TokenView, Views, seen_by_mlps
from crossproof.lm import LanguageModel

Pooling = Literal["max", "mean"]
"""How the scores of a text's tokens become the text's: the largest, or their mean."""


@dataclass(frozen=True, eq=False)
class PairWeights:
    """A weight for every two latents active at the same token, blocks summed."""

    token: Int[Tensor, " entries"]
    """The token, among the reading's B."""
    key: Int[Tensor, " entries"]
    """h·H + k with h < k."""
    weight: Float[Tensor, " entries"]


@dataclass(frozen=True, eq=False)
class TextReading(EncodedBatch):
    """S texts, a row each, and the crosscoder's view of their B scored tokens."""

    x_hat: Float[Tensor, "B P D"]
    losses: Float[Tensor, " B"]
    """Cross-entropy of each token given those before it, in nats; 0 for a text's first."""
    views: Views

    @cached_property
    def seen(self) -> dict[int, TokenView]:
        """What each MLP sees of the tokens."""
        return seen_by_mlps(self.latents, self.views)

    @cached_property
    def errors(self) -> Float[Tensor, " B"]:
        """Reconstruction error: ‖x - x̂‖² / ‖x‖², mean over hookpoints."""
        squares = (self.x - self.x_hat).pow(2).sum(2) / self.x.pow(2).sum(2).clamp_min(1e-12)
        return squares.mean(1)

    @cached_property
    def norms(self) -> Float[Tensor, " B"]:
        """Geometric mean of ‖x‖ over hookpoints, whose scales differ."""
        logs: Tensor = self.x.norm(dim=2).clamp_min(1e-12).log()
        return logs.mean(1).exp()

    @cached_property
    def interactions(self) -> PairWeights:
        """I(h,k) + I(k,h) of every pair at every token."""
        pairs = token_pairs(self.latents, self.views)
        weight = pairs.sums[..., COLUMNS["I"]].sum((1, 2)).float()
        active, (first, second) = pairs.latents, pairs.entries
        key = active.indices[first] * active.n_latents + active.indices[second]
        return PairWeights(active.token_index[first], key, weight)

    @cached_property
    def shapley(self) -> PairWeights:
        """‖φ‖, Shapley-Taylor, of every pair of each token's strongest 6 latents."""
        entry = strongest(self.latents, self.views, PLAYERS)
        if not len(self.latents.indices):
            return PairWeights(entry.new_empty(0), entry.new_empty(0), self.x.new_empty(0))
        latent = torch.where(entry >= 0, self.latents.indices[entry.clamp_min(0)], -1)
        one, other = torch.triu_indices(PLAYERS, PLAYERS, 1, device=latent.device)
        weight = shapley_pairs(self.latents, entry, self.views)
        token = torch.arange(len(latent), device=latent.device)[:, None].expand_as(weight)
        key = latent[:, one] * self.latents.n_latents + latent[:, other]
        present = latent[:, one] >= 0  # ascending: where the first is a latent, so is the second
        return PairWeights(token[present], key[present], weight[present])

    def by_text(self, values: Float[Tensor, " B"], pooling: Pooling) -> Float[Tensor, " S"]:
        """The scores of tokens as scores of texts."""
        out = values.new_full((len(self.tokens),), -torch.inf if pooling == "max" else 0.0)
        if pooling == "max":
            return out.scatter_reduce_(0, self.sequence, values, "amax")
        counts = torch.bincount(self.sequence, minlength=len(out)).to(values)
        return out.index_add_(0, self.sequence, values) / counts


def read_batches(
    model: LanguageModel,
    crosscoder: Crosscoder,
    tokens: Int[Tensor, "S T"],
    batch_texts: int = 16,
    blocks: Iterable[int] | None = None,
    first: int = 0,
) -> Iterator[TextReading]:
    """Reads texts (padded rows of tokens), a batch at a time; keep them in a list to read again.

    `blocks`: the MLPs whose interactions count; if None, those at whose inputs the crosscoder
    decodes or, if there are none, the first behind each hookpoint that it writes. `first` is how
    many texts come before these. Raises CrossproofError if a text has no ordinary token, or no MLP
    reads the crosscoder.
    """
    views = mlp_views(model, crosscoder)
    if blocks is not None:
        views = {block: views[block] for block in blocks if block in views}
    if not views:
        raise CrossproofError(
            "No MLP reads the crosscoder, so interactions cannot be measured; train one that "
            "decodes at an MLP's input or in the stream before one.",
            code="CP-NO-MLP",
        )
    for start in range(0, len(tokens), batch_texts):
        rows = trimmed(tokens[start : start + batch_texts], model.special_ids)
        (batch,) = encode_batches(model, crosscoder, rows, len(rows), needs_of(views))
        if not bool(batch.scored.any(1).all()):
            empty = first + start + int((~batch.scored.any(1)).nonzero()[0, 0])
            raise CrossproofError(f"Text {empty + 1} has no ordinary token; leave it out.")
        with torch.no_grad():
            losses = torch.nn.functional.pad(model.token_losses(batch.tokens), (1, 0))
            x_hat = crosscoder.decode(batch.latents, batch.x)
        yield TextReading(
            first + start,
            batch.tokens,
            batch.scored,
            batch.x,
            batch.latents,
            batch.model_activations,
            x_hat,
            losses[batch.scored],
            seen_by(views, batch),
        )


def trimmed(rows: Int[Tensor, "S T"], special_ids: frozenset[int]) -> Int[Tensor, "S U"]:
    """Rows without the columns at the end in which no row has an ordinary token."""
    used = scored_positions(rows, special_ids).any(0).nonzero()
    return rows[:, : int(used[-1, 0]) + 1] if len(used) else rows
