"""Sequences in batches: codes, and the streams of the model and of the dictionary, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.interactions.contributions import MLPDictionary
from crossproof.lm.model import LanguageModel
from crossproof.proof.attribution.places import ModelParts
from crossproof.proof.attribution.steps import BlockInputs


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences, their code, and the streams of the model and of the dictionary."""

    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    first: int
    latents: SparseLatents
    true: dict[str, Tensor]
    """The model's own values [S, T, D] at its residual streams, float64."""
    decoded: Float[Tensor, "B P D"]

    @property
    def labelled(self) -> Bool[Tensor, " B"]:
        """Which scored positions have a next token."""
        places = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return (places < self.tokens.shape[1] - 1).expand(self.tokens.shape)[self.scored]

    @property
    def labels(self) -> Int[Tensor, " M"]:
        """The next tokens of the labelled positions."""
        return self.tokens.roll(-1, 1)[self.scored][self.labelled].long()

    def positions(self, chosen: Bool[Tensor, " B"]) -> dict[str, Int[Tensor, " M"]]:
        """Where the chosen scored tokens stand, and which they are."""
        places = self.scored.nonzero()[chosen]
        return {
            "sequence": self.first + places[:, 0],
            "position": places[:, 1],
            "token": self.tokens[self.scored][chosen].long(),
        }


def batches(
    model: LanguageModel, crosscoder: Crosscoder, sequences: Int[Tensor, "S T"], size: int
) -> Iterator[Batch]:
    """One batch of sequences after another, harvested, encoded and decoded."""
    names = crosscoder.hookpoints.names
    roles = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
    streams = [f"blocks.{block}.{role}" for block in range(model.n_blocks) for role in roles]
    wanted = [*names, *(name for name in streams if name not in names)]
    dtype = crosscoder.b_dec.dtype
    for start in range(0, len(sequences), size):
        tokens = sequences[start : start + size].to(model.device)
        scored = scored_positions(tokens, model.special_ids).to(model.device)
        with torch.no_grad():
            values = model.activations(tokens, wanted)
            latents = crosscoder.encode(values[scored][:, : len(names)].to(dtype))
            exact = latents.with_values(latents.values.double())
            decoded = _decode(crosscoder, exact)
        true = {name: values[:, :, wanted.index(name)].double() for name in streams}
        yield Batch(tokens, scored, start, exact, true, decoded)


def _decode(crosscoder: Crosscoder, latents: SparseLatents) -> Float[Tensor, "B P D"]:
    """The reconstruction in float64: Σ a_h d_h + b with the dictionary's stored numbers."""
    places = range(len(crosscoder.hookpoints))
    dense = latents.dense()
    return torch.stack(
        [
            dense @ crosscoder.decoder_vectors(p).double() + crosscoder.decoder_bias(p).double()
            for p in places
        ],
        1,
    )


def block_inputs(
    parts: ModelParts, crosscoder: Crosscoder, batch: Batch, views: dict[int, MLPDictionary]
) -> list[BlockInputs]:
    """Every block's streams, decoded and true."""
    found = []
    for block, places in zip(parts.blocks, crosscoder.hookpoints.blocks, strict=True):
        pre = _streams(batch, block.index, "pre", places.resid_pre)
        mid = _streams(batch, block.index, "mid", places.resid_mid)
        post = _streams(batch, block.index, "post", places.resid_post)
        assert places.mlp_in is not None  # `chain_hookpoints` looked
        x_hat = batch.decoded[:, places.mlp_in]
        true, view = (pre[0], mid[0], post[0]), views[block.index]
        found.append(BlockInputs(block, view, *true, pre[1], mid[1], post[1], x_hat))
    return found


def _streams(batch: Batch, block: int, role: str, place: int | None) -> tuple[Tensor, Tensor]:
    """The model's stream, and the decoded one where positions are scored."""
    assert place is not None  # `chain_hookpoints` looked
    true = batch.true[f"blocks.{block}.hook_resid_{role}"]
    decoded = true.clone()
    decoded[batch.scored] = batch.decoded[:, place]
    return true, decoded
