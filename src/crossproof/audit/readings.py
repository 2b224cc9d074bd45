"""`Reading`: what one pass of the model and the crosscoder sees of a few texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.audit.shapley import PLAYERS, shapley_pairs, strongest
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions import mlp_views
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.measuring import COLUMNS, token_pairs
from crossproof.lm import LanguageModel

How = Literal["max", "mean"]
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
class Reading:
    """S texts, their B scored tokens, and the crosscoder's view of those."""

    first: int
    """Place of the first text among all."""
    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    x: Float[Tensor, "B P D"]
    latents: SparseLatents
    x_hat: Float[Tensor, "B P D"]
    losses: Float[Tensor, " B"]
    """Cross-entropy of each token given those before it, in nats; 0 for a text's first."""
    views: Mapping[int, MLPDictionary]

    @cached_property
    def text(self) -> Int[Tensor, " B"]:
        """The row of each scored token."""
        return self.scored.nonzero()[:, 0]

    @cached_property
    def position(self) -> Int[Tensor, " B"]:
        """The column of each scored token."""
        return self.scored.nonzero()[:, 1]

    @cached_property
    def ids(self) -> Int[Tensor, " B"]:
        """The token ids."""
        return self.tokens[self.scored]

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
        """I(h,k) + I(k,h) of every pair at every token (gated MLPs: I and AND)."""
        found = token_pairs(self.latents, self.views)
        columns = [c for form in found.forms if form in ("I", "AND") for c in COLUMNS[form]]
        weight = found.sums[..., columns].sum((1, 2)).float()
        active, (first, second) = found.latents, found.entries
        key = active.indices[first] * active.n_latents + active.indices[second]
        return PairWeights(active.token_index[first], key, weight)

    @cached_property
    def shapley(self) -> PairWeights:
        """‖φ‖, Shapley–Taylor, of every pair of each token's strongest 6 latents."""
        latent, value = strongest(self.latents, self.views, PLAYERS)
        one, other = torch.triu_indices(PLAYERS, PLAYERS, 1)
        weight = shapley_pairs(latent, value, self.views)
        token = torch.arange(len(latent))[:, None].expand_as(weight)
        key = latent[:, one] * self.latents.n_latents + latent[:, other]
        present = latent[:, one] >= 0  # ascending: where the first is a latent, so is the second
        return PairWeights(token[present], key[present], weight[present])

    def by_text(self, values: Float[Tensor, " B"], how: How) -> Float[Tensor, " S"]:
        """The scores of tokens as scores of texts."""
        out = values.new_full((len(self.tokens),), -torch.inf if how == "max" else 0.0)
        if how == "max":
            return out.scatter_reduce_(0, self.text, values, "amax")
        counts = torch.bincount(self.text, minlength=len(out)).to(values)
        return out.index_add_(0, self.text, values) / counts


def read(
    model: LanguageModel,
    crosscoder: Crosscoder,
    tokens: Int[Tensor, "S T"],
    batch: int = 16,
    blocks: Iterable[int] | None = None,
) -> Iterator[Reading]:
    """Reads texts (padded rows of tokens), `batch` at a time; keep them in a list to read again.

    `blocks`: the MLPs whose interactions count; all that the crosscoder reads, if None. Raises
    CrossproofError if a text has no ordinary token, or the crosscoder has no decoder at any MLP's
    input.
    """
    views = mlp_views(model, crosscoder)
    if blocks is not None:
        views = {block: views[block] for block in blocks if block in views}
    if not views:
        raise CrossproofError(
            "The crosscoder reads no MLP's input, so interactions cannot be measured; train one "
            "that reads 'blocks.*.mlp.hook_in'."
        )
    for start in range(0, len(tokens), batch):
        rows = trimmed(tokens[start : start + batch].to(model.device), model.special_ids)
        scored = scored_positions(rows, model.special_ids).to(model.device)
        if not bool(scored.any(1).all()):
            place = start + int((~scored.any(1)).nonzero()[0, 0])
            raise CrossproofError(f"Text {place + 1} has no ordinary token; leave it out.")
        with torch.no_grad():
            x = model.activations(rows, crosscoder.hookpoints.names)[scored].float()
            latents = crosscoder.encode(x)
            losses = torch.nn.functional.pad(model.token_losses(rows), (1, 0))[scored]
            yield Reading(
                start, rows, scored, x, latents, crosscoder.decode(latents), losses, views
            )


def trimmed(rows: Int[Tensor, "S T"], special_ids: frozenset[int]) -> Int[Tensor, "S U"]:
    """Rows without the columns at the end in which no row has an ordinary token."""
    used = scored_positions(rows, special_ids).any(0).nonzero()
    return rows[:, : int(used[-1, 0]) + 1] if len(used) else rows
