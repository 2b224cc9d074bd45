"""One batch's codes and residual streams, the model's and the dictionary's, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.lm.model import LanguageModel
from crossproof.rounding import length

ROLES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")


@dataclass(frozen=True, eq=False)
class Stream:
    """A residual stream at all positions, in float64: the model's own and the decoded one.

    Where a position is not scored, decoded is the model's own, so that the distance there is 0.
    """

    true: Float[Tensor, "S T D"]
    decoded: Float[Tensor, "S T D"]

    @property
    def distance(self) -> Float[Tensor, "S T"]:
        """‖r - r̂‖."""
        return length(self.true - self.decoded)


@dataclass(frozen=True, eq=False)
class StreamBatch:
    """S sequences with B scored positions."""

    encoded: EncodedBatch
    latents: SparseLatents
    decoded: Float[Tensor, "B P D"]
    """What the dictionary's stored numbers make of the latents."""

    @property
    def tokens(self) -> Int[Tensor, "S T"]:
        """The sequences."""
        return self.encoded.tokens

    @property
    def scored(self) -> Bool[Tensor, "S T"]:
        """The B positions that are attributed."""
        return self.encoded.scored

    def true(self, block: int, role: str) -> Float[Tensor, "S T D"]:
        """The model's own stream at a block's `pre`, `mid` or `post`."""
        return self.encoded.model_activations[f"blocks.{block}.hook_resid_{role}"].double()

    def stream(self, block: int, role: str, hookpoint: int | None) -> Stream:
        """The stream at a block's `pre`, `mid` or `post`, which the hookpoint decodes."""
        assert hookpoint is not None  # `chain_hookpoints` looked
        true = self.true(block, role)
        decoded = true.clone()
        decoded[self.scored] = self.decoded[:, hookpoint]
        return Stream(true, decoded)

    @property
    def labelled(self) -> Bool[Tensor, " B"]:
        """Which scored positions have a next token."""
        return self.encoded.position < self.tokens.shape[1] - 1

    @property
    def labels(self) -> Int[Tensor, " M"]:
        """The next tokens of the labelled positions."""
        return self.tokens.roll(-1, 1)[self.scored][self.labelled].long()

    def positions(self, chosen: Bool[Tensor, " B"]) -> dict[str, Int[Tensor, " M"]]:
        """Where the chosen scored tokens stand, and which they are."""
        return {
            "sequence": self.encoded.first + self.encoded.sequence[chosen],
            "position": self.encoded.position[chosen],
            "token": self.encoded.token_ids[chosen].long(),
        }


def stream_batches(
    model: LanguageModel, crosscoder: Crosscoder, sequences: Int[Tensor, "S T"], size: int
) -> Iterator[StreamBatch]:
    """One batch of sequences after another, harvested, encoded and decoded."""
    streams = [f"blocks.{block}.{role}" for block in range(model.n_blocks) for role in ROLES]
    for encoded in encode_batches(model, crosscoder, sequences, size, also=streams):
        latents = encoded.latents.with_values(encoded.latents.values.double())
        with torch.no_grad():
            decoded = _decode(crosscoder, latents)
        yield StreamBatch(encoded, latents, decoded)


def _decode(crosscoder: Crosscoder, latents: SparseLatents) -> Float[Tensor, "B P D"]:
    """The reconstruction in float64: Σ a_h d_h + b with the dictionary's stored numbers."""
    dense = latents.dense()
    decoded = [
        dense @ crosscoder.decoder_vectors(at).double() + crosscoder.decoder_bias(at).double()
        for at in range(len(crosscoder.hookpoints))
    ]
    return torch.stack(decoded, 1)
