"""A batch of held-out sequences with its reconstruction, and the model run with parts replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.interactions.views import MLPView, needs_of
from crossproof.lm.model import LanguageModel


@dataclass(frozen=True, eq=False)
class DecodedBatch:
    """An encoded batch, its reconstruction, and the model whose hookpoints may be replaced."""

    model: LanguageModel
    crosscoder: Crosscoder
    encoded: EncodedBatch
    x_hat: Float[Tensor, "B P D"]

    def uniform(self, width: int, seed: tuple[int, ...]) -> Float[Tensor, "B N"]:
        """Numbers in [0, 1) that depend on a token's sequence, not on the batch that holds it."""
        batch = self.encoded
        counts = torch.bincount(batch.sequence, minlength=len(batch.tokens)).tolist()
        rows = [
            np.random.default_rng((*seed, batch.first + i)).random((count, width), np.float32)
            for i, count in enumerate(counts)
        ]
        return torch.from_numpy(np.concatenate(rows)).to(batch.x.device)

    def patched(self, name: str, values: Float[Tensor, "B D"]) -> dict[str, Tensor]:
        """`values` at the scored positions of a hookpoint, the model's own elsewhere."""
        whole = self.encoded.model_activations[name].clone()
        whole[self.encoded.scored] = values.to(whole.dtype)
        return {name: whole}

    def losses(self, replace: Mapping[str, Tensor] | None = None) -> Float[Tensor, " S"]:
        """Summed next-token loss of each sequence over scored positions, in nats."""
        losses = self.model.token_losses(self.encoded.tokens, replace)
        return (losses * self.encoded.scored[:, :-1]).double().sum(1)


def decode_batches(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    batch_sequences: int,
    views: Mapping[int, MLPView],
) -> Iterator[DecodedBatch]:
    """Batches with the model's values of all that may be patched, and of what the views need."""
    also = [*needs_of(views), *map(mlp_out, views)]
    for batch in encode_batches(model, crosscoder, sequences, batch_sequences, also):
        with torch.no_grad():
            yield DecodedBatch(model, crosscoder, batch, crosscoder.decode(batch.latents))


def mlp_out(block: int) -> str:
    """The hookpoint of what a block's MLP puts out."""
    return f"blocks.{block}.mlp.hook_out"
