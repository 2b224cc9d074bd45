"""One batch of held-out sequences with all that the measurements share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.lm.model import LanguageModel


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences [S, T], their scored positions flattened to B tokens, and the code of those.

    `own` holds the model's own values [S, T, D] of every hookpoint that may be patched.
    """

    model: LanguageModel
    crosscoder: Crosscoder
    tokens: Int[Tensor, "S T"]
    scored: Bool[Tensor, "S T"]
    x: Float[Tensor, "B P D"]
    latents: SparseLatents
    x_hat: Float[Tensor, "B P D"]
    sequence: Int[Tensor, " B"]
    own: Mapping[str, Tensor]
    first: int
    """Place of the batch's first sequence among all that are evaluated."""

    @classmethod
    def build(
        cls, model: LanguageModel, crosscoder: Crosscoder, tokens: Int[Tensor, "S T"], first: int
    ) -> Batch:
        """Harvests and encodes the scored positions of [S, T] tokens."""
        scored = scored_positions(tokens, model.special_ids).to(model.device)
        names = crosscoder.hookpoints.names
        more = [mlp_out(b) for b in crosscoder.hookpoints.mlp_blocks]
        more += [resid_post(b) for b in crosscoder.hookpoints.mlp_blocks]
        wanted = [*names, *(name for name in more if name not in names)]
        values = model.activations(tokens, wanted)
        own = dict(zip(wanted, values.unbind(2), strict=True))
        x = values[scored][:, : len(names)].float()
        latents = crosscoder.encode(x)
        x_hat, sequence = crosscoder.decode(latents), scored.nonzero()[:, 0]
        return cls(model, crosscoder, tokens, scored, x, latents, x_hat, sequence, own, first)

    def per_sequence(self, values: Float[Tensor, "B *parts"]) -> Float[Tensor, "S *parts"]:
        """Sums over the scored positions of each sequence, in float64."""
        shape = (len(self.tokens), *values.shape[1:])
        out = torch.zeros(shape, dtype=torch.float64, device=values.device)
        return out.index_add_(0, self.sequence, values.double())

    def uniform(self, width: int, seed: tuple[int, ...]) -> Float[Tensor, "B N"]:
        """Numbers in [0, 1) that depend on a token's sequence, not on the batch that holds it."""
        counts = torch.bincount(self.sequence, minlength=len(self.tokens)).tolist()
        rows = [
            np.random.default_rng((*seed, self.first + i)).random((count, width), np.float32)
            for i, count in enumerate(counts)
        ]
        return torch.from_numpy(np.concatenate(rows)).to(self.x.device)

    def patched(self, name: str, values: Float[Tensor, "B D"]) -> dict[str, Tensor]:
        """`values` at the scored positions of a hookpoint, the model's own elsewhere."""
        whole = self.own[name].clone()
        whole[self.scored] = values.to(whole.dtype)
        return {name: whole}

    def losses(self, replace: Mapping[str, Tensor] | None = None) -> Float[Tensor, " S"]:
        """Summed next-token loss of each sequence over scored positions, in nats."""
        losses = self.model.token_losses(self.tokens, replace)
        return (losses * self.scored[:, :-1]).double().sum(1)


def mlp_out(block: int) -> str:
    """The hookpoint of what a block's MLP puts out."""
    return f"blocks.{block}.mlp.hook_out"


def resid_post(block: int) -> str:
    """The hookpoint of the residual stream behind a block."""
    return f"blocks.{block}.hook_resid_post"
