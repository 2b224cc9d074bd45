"""What attribution needs of a model and of a crosscoder, checked once: weights and hookpoints."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.lm.hookpoints import BlockHookpoints
from crossproof.lm.model import LanguageModel
from crossproof.lm.norms import Norm
from crossproof.lm.unembedding import (
    Unembedding,
    attention_norm,
    check_sequential,
    mlp_norm,
    unembedding,
)
from crossproof.proof.attribution.balls import AttentionBall, LogitBall, MLPBall
from crossproof.proof.attribution.last_block import LastBlock

ROLES = ("resid_pre", "resid_mid", "mlp_in", "resid_post")
_SPELLING = {
    "resid_pre": "blocks.{}.hook_resid_pre",
    "resid_mid": "blocks.{}.hook_resid_mid",
    "mlp_in": "blocks.{}.mlp.hook_in",
    "resid_post": "blocks.{}.hook_resid_post",
}
_NAMED = 4
"""Missing hookpoints that an error names; a real model's chain has a hundred."""


@dataclass(frozen=True, eq=False)
class BlockParts:
    """One block's steps as the chain of bounds takes them, in float64."""

    index: int
    attention_norm: Norm
    mlp_norm: Norm
    mlp: MLPBall
    attention: AttentionBall | None
    """None where the attention has no view: then only its measured error is charged."""
    why_not: str = ""
    """Why there is no view."""


@dataclass(frozen=True, eq=False)
class ModelParts:
    """A model's blocks and logits, in float64."""

    blocks: tuple[BlockParts, ...]
    unembedding: Unembedding
    logits: LogitBall
    last: LastBlock

    @property
    def attention_bounded(self) -> bool:
        """Whether every block's attention can be bounded."""
        return all(block.attention is not None for block in self.blocks)


def model_parts(model: LanguageModel) -> ModelParts:
    """Every part of a model that attribution reads.

    Raises CrossproofError unless blocks add attention and MLP in turn, with LayerNorms or RMSNorms,
    dense MLPs and an unembedding behind one more norm. An attention without a view is no error.
    """
    blocks = tuple(_block(model, index) for index in range(model.n_blocks))
    view = unembedding(model)
    return ModelParts(blocks, view, LogitBall(view), LastBlock(blocks[-1].mlp.mlp, view))


def _block(model: LanguageModel, index: int) -> BlockParts:
    check_sequential(model, index)
    mlp = MLPBall(model.mlp(index).to(dtype=torch.float64))
    norms = attention_norm(model, index), mlp_norm(model, index)
    try:
        attention = AttentionBall(model.attention(index).to(dtype=torch.float64))
    except CrossproofError as error:
        return BlockParts(index, *norms, mlp, None, str(error))
    return BlockParts(index, *norms, mlp, attention)


def chain_hookpoints(crosscoder: Crosscoder) -> tuple[BlockHookpoints, ...]:
    """Each block's hookpoints; raises CrossproofError naming what the chain lacks."""
    blocks = crosscoder.hookpoints.blocks
    missing = [
        _SPELLING[role].format(index)
        for index, block in enumerate(blocks)
        for role in ROLES
        # A block's resid_post is the next one's resid_pre: named once.
        if getattr(block, role) is None and (role != "resid_post" or index == len(blocks) - 1)
    ]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        # Without a decoder at the last MLP's input, the last block's certificates are refused too.
        last = ", or give --parts last-block" if blocks[-1].mlp_in is not None else ""
        raise CrossproofError(
            f"The chain of bounds needs a decoder at every block's resid_pre, resid_mid and MLP "
            f"input and at the last resid_post, and this crosscoder lacks "
            f"{', '.join(missing[:_NAMED])}{more}: train one on the standard hookpoints{last} "
            f"(`crossproof measure` takes dictionaries of any hookpoints)."
        )
    return blocks


def last_view(parts: ModelParts, crosscoder: Crosscoder) -> MLPDictionary:
    """The dictionary at the last MLP's input; raises CrossproofError if it has no decoder there."""
    index = len(parts.blocks) - 1
    hookpoint = crosscoder.hookpoints.blocks[index].mlp_in
    if hookpoint is None:
        raise CrossproofError(
            f"This crosscoder has no decoder at {_SPELLING['mlp_in'].format(index)}, the last "
            f"MLP's input: attribution needs one."
        )
    return block_view(parts.blocks[index], crosscoder, hookpoint)


def block_view(block: BlockParts, crosscoder: Crosscoder, hookpoint: int) -> MLPDictionary:
    """The dictionary as one block's MLP sees it, in float64."""
    with torch.no_grad():
        decoder, bias = (
            crosscoder.decoder_vectors(hookpoint).double(),
            crosscoder.decoder_bias(hookpoint).double(),
        )
        return MLPDictionary.build(block.mlp.mlp, decoder, bias)
