"""The one pass over text: tokens → scored positions → activations → latents.

Evaluation, measurement, attribution, clusters and audit all read text through `encode_batches`.
It stands beside the dictionary because a batch's latents are the dictionary's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions, within_limits
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.lm.model import LanguageModel

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """S sequences, their B encoded positions, and the model's own activations behind them."""

    first: int
    """Index of the batch's first sequence among all."""
    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    """The encoded positions: those that are scored, unless every position was asked for."""
    x: Float[Tensor, "B P D"]
    """Activations at the crosscoder's hookpoints, in the crosscoder's dtype."""
    latents: SparseLatents
    model_activations: Mapping[str, Float[Tensor, "S T D"]]
    """The model's own, by hookpoint: the crosscoder's and those asked for besides."""

    @property
    def end(self) -> int:
        """How many of all sequences are read when this batch is."""
        return self.first + len(self.tokens)

    @cached_property
    def sequence(self) -> Int[Tensor, " B"]:
        """The row of `tokens` of each encoded position."""
        return self.scored.nonzero()[:, 0]

    @cached_property
    def position(self) -> Int[Tensor, " B"]:
        """The column of `tokens` of each encoded position."""
        return self.scored.nonzero()[:, 1]

    @cached_property
    def token_ids(self) -> Int[Tensor, " B"]:
        """The token at each encoded position."""
        return self.tokens[self.scored]

    def per_sequence(
        self, values: Float[Tensor, "M *parts"], which: Bool[Tensor, " B"] | slice = ALL
    ) -> Float[Tensor, "S *parts"]:
        """Sums over each sequence's encoded positions, or over those in `which`, in float64."""
        shape = (len(self.tokens), *values.shape[1:])
        out = torch.zeros(shape, dtype=torch.float64, device=values.device)
        return out.index_add_(0, self.sequence[which], values.double())

    def take(self, rows: Int[Tensor, " T"]) -> EncodedBatch:
        """Some of the encoded positions, ascending, as a batch of their own."""
        at = self.scored.flatten().nonzero()[rows, 0]
        scored = torch.zeros_like(self.scored).flatten().index_fill(0, at, True)
        kept = scored.view_as(self.scored)
        x = self.x[rows] if len(self.x) else self.x  # it may have been left out
        return replace(self, scored=kept, x=x, latents=self.latents.take(rows))

    def latents_only(self, but: Sequence[str] = ()) -> EncodedBatch:
        """The same without activations, which take most of the memory, `but` those named."""
        empty = self.x.new_empty(0, *self.x.shape[1:])  # a view would keep all of them
        kept = {name: self.model_activations[name].clone() for name in but}
        return replace(self, x=empty, model_activations=kept)

    def of_position(self, row: int, column: int) -> EncodedBatch:
        """One encoded position alone; `x` is empty."""
        token = int(self.scored.flatten()[: row * self.tokens.shape[1] + column].sum())
        at = slice(row, row + 1), slice(column, column + 1)
        return replace(
            self,
            first=self.first + row,
            tokens=self.tokens[at],
            scored=self.scored[at],
            x=self.x.new_empty(0, *self.x.shape[1:]),
            latents=self.latents.rows(token, token + 1),
            model_activations={name: v[at] for name, v in self.model_activations.items()},
        )

    def activations_of(self, latent: int) -> Float[Tensor, "S T"]:
        """One latent's activations; 0 where a position is not encoded."""
        mask = self.latents.indices == latent
        flat = self.latents.values.new_zeros(self.latents.n_tokens)
        flat[self.latents.token_index[mask]] = self.latents.values[mask]
        values = flat.new_zeros(self.tokens.shape)
        values[self.scored] = flat
        return values


def for_figures(crosscoder: Crosscoder) -> Crosscoder:
    """The crosscoder, or a float32 copy of one in half precision: figures are float32 at least."""
    half = crosscoder.b_dec.dtype in (torch.bfloat16, torch.float16)
    return copy.deepcopy(crosscoder).float() if half else crosscoder


def encode_batches(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    batch_sequences: int,
    also: Sequence[str] = (),
    every_position: bool = False,
    first: int = 0,
) -> Iterator[EncodedBatch]:
    """One batch of sequences [S, T] after another, harvested and encoded, without gradients.

    Positions count by the crosscoder's own rule, that of its training. `also` names further
    hookpoints whose activations are kept. With `every_position`, those that do not count are
    encoded too. `first` is how many sequences of the text come before these. Raises CrossproofError
    if model and dictionary are on different devices.
    """
    if crosscoder.b_dec.device != model.device:
        raise CrossproofError(
            f"The dictionary is on {crosscoder.b_dec.device} and '{model.name}' on {model.device}: "
            f"move it, crosscoder.to(model.device)."
        )
    names, rule = crosscoder.hookpoints.names, crosscoder.positions
    wanted = [*names, *(name for name in dict.fromkeys(also) if name not in names)]
    for start in range(0, len(sequences), batch_sequences):
        tokens = sequences[start : start + batch_sequences].to(model.device)
        scored = scored_positions(tokens, model.special_ids, rule.skip_first)
        with torch.no_grad():
            values = model.activations(tokens, wanted)
            if every_position:
                scored = torch.ones_like(scored)
            elif rule.norm_limits:
                inside = within_limits(values.flatten(0, 1)[:, : len(names)], rule.norm_limits)
                scored &= inside.view_as(scored)
            x = values[scored][:, : len(names)].to(crosscoder.b_dec.dtype)
            latents = crosscoder.encode(x)
        kept = dict(zip(wanted, values.unbind(2), strict=True))
        yield EncodedBatch(first + start, tokens, scored, x, latents, kept)
