"""The chain of bounds through all blocks, for every token: base ball, steps, final radius.

‖r - r̂‖ ≤ ρ at each hookpoint of the residual stream, r being the model's and r̂ the decoded one:

    ρ_mid  = ρ_pre + [attention moves] + κ_attention
    ρ_post = ρ_mid + [MLP moves] + ν + interaction + κ

(docs/attribution.md). Every part is a `Stage`; radii only grow from stage to stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.crosscoder.model import Crosscoder
from crossproof.interactions.contributions import MLPDictionary
from crossproof.proof.attribution.balls import through_norm
from crossproof.proof.attribution.figures import StageKind
from crossproof.proof.attribution.model_parts import BlockParts, ModelParts
from crossproof.proof.attribution.simplified import ENGINES, Engine, Neurons, chunks, joined
from crossproof.proof.attribution.streams import Stream, StreamBatch
from crossproof.rounding import length, upward

AttentionMode = Literal["bounded", "measured"]
"""bounded: attention moves by what the ball allows. measured: its output is the model's own."""


@dataclass(frozen=True)
class Stage:
    """One summand of the radius."""

    block: int | None
    part: str
    kind: StageKind

    @property
    def name(self) -> str:
        """Such as "blocks.0 interaction"."""
        return self.part if self.block is None else f"blocks.{self.block} {self.part}"


BASE = Stage(None, "base", "measured")


@dataclass(frozen=True, eq=False)
class Chain:
    """Radii of the scored tokens after every stage, in forward order."""

    stages: tuple[Stage, ...]
    radii: Float[Tensor, "stages B"]
    """Cumulative: what is proved about ‖r - r̂‖ once the stage is charged."""


@dataclass(frozen=True, eq=False)
class MLPParts:
    """What an MLP's step costs whatever the radius; each with the truth that it bounds."""

    norm_defect: Float[Tensor, " B"]
    """ν: bounds ‖MLP(norm r̂_mid) - MLP(x̂)‖."""
    interaction: Float[Tensor, " B"]
    """T1, T2.2 or T3: bounds ‖MLP(x̂) - simplified MLP‖."""
    consistency: Float[Tensor, " B"]
    """κ = ‖r̂_post - (r̂_mid + simplified MLP)‖, exactly."""
    norm_defect_true: Float[Tensor, " B"]
    interaction_true: Float[Tensor, " B"]


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """One block and its streams."""

    block: BlockParts
    view: MLPDictionary
    pre: Stream
    mid: Stream
    post: Stream
    x_hat: Float[Tensor, "B D"]
    """The decoded MLP input of the scored positions."""


def block_inputs(
    parts: ModelParts, crosscoder: Crosscoder, batch: StreamBatch, views: dict[int, MLPDictionary]
) -> list[BlockInputs]:
    """Every block's streams, decoded and true."""
    inputs = []
    for block, names in zip(parts.blocks, crosscoder.hookpoints.blocks, strict=True):
        pre = batch.stream(block.index, "pre", names.resid_pre)
        mid = batch.stream(block.index, "mid", names.resid_mid)
        post = batch.stream(block.index, "post", names.resid_post)
        assert names.mlp_in is not None  # `chain_hookpoints` looked
        x_hat = batch.decoded[:, names.mlp_in]
        inputs.append(BlockInputs(block, views[block.index], pre, mid, post, x_hat))
    return inputs


def run_chain(
    inputs: list[BlockInputs],
    parts: list[MLPParts],
    scored: Bool[Tensor, "S T"],
    attention: AttentionMode,
) -> Chain:
    """The chain of one engine (`parts`, a block each) with attention bounded or measured."""
    stages, radii = [BASE], [inputs[0].pre.distance]

    def add(stage: Stage, more: Tensor) -> None:
        stages.append(stage)
        radii.append(upward(radii[-1] + torch.where(scored, more, 0)))

    for given, mlp in zip(inputs, parts, strict=True):
        index = given.block.index
        if attention == "measured":
            add(Stage(index, "attention error", "measured"), measured_attention(given))
        else:
            moved, defect = bounded_attention(given, radii[-1])
            add(Stage(index, "attention moves", "propagates"), moved)
            add(Stage(index, "attention consistency", "code"), defect)
        norm, mid = given.block.mlp_norm, given.mid.decoded[scored]
        moved = given.block.mlp.spread(norm(mid), through_norm(norm, mid, radii[-1][scored]))
        add(Stage(index, "MLP moves", "propagates"), _on_grid(moved, scored))
        add(Stage(index, "norm defect", "code"), _on_grid(mlp.norm_defect, scored))
        add(Stage(index, "interaction", "code"), _on_grid(mlp.interaction, scored))
        add(Stage(index, "MLP consistency", "code"), _on_grid(mlp.consistency, scored))
    return Chain(tuple(stages), torch.stack([grid[scored] for grid in radii]))


def measured_attention(given: BlockInputs) -> Float[Tensor, "S T"]:
    """‖r̂_mid - (r̂_pre + the model's own attention output)‖."""
    attended = given.mid.true - given.pre.true
    return length(given.mid.decoded - (given.pre.decoded + attended))


def bounded_attention(
    given: BlockInputs, radius: Float[Tensor, "S T"]
) -> tuple[Float[Tensor, "S T"], Float[Tensor, "S T"]]:
    """What the ball lets the attention's output move by, and ‖r̂_mid - (r̂_pre + Attn(r̂_pre))‖.

    The second is a function of the codes of all positions, like κ of an MLP.
    """
    ball, norm = given.block.attention, given.block.attention_norm
    assert ball is not None  # the caller looked at `attention_bounded`
    pre, x = given.pre.decoded, norm(given.pre.decoded)
    moved = ball.spread(x, through_norm(norm, pre, radius))
    return moved, length(given.mid.decoded - (pre + ball.attention(x)))


def _on_grid(values: Float[Tensor, " B"], scored: Bool[Tensor, "S T"]) -> Float[Tensor, "S T"]:
    grid = values.new_zeros(scored.shape)
    grid[scored] = values
    return grid


def mlp_parts(
    given: BlockInputs, latents: SparseLatents, scored: Bool[Tensor, "S T"]
) -> Mapping[Engine, MLPParts]:
    """What an MLP's step costs under every engine, for the B scored tokens."""
    mid, post = given.mid.decoded[scored], given.post.decoded[scored]
    x = given.block.mlp_norm(mid)
    rows: dict[Engine, list[MLPParts]] = {engine: [] for engine in ENGINES}
    for part, piece in chunks(given.view, latents):
        parts = _chunk(given, piece, mid[part], post[part], x[part], given.x_hat[part])
        for engine, values in parts.items():
            rows[engine].append(values)
    return {engine: joined(MLPParts, pieces) for engine, pieces in rows.items()}


def _chunk(
    given: BlockInputs, latents: SparseLatents, mid: Tensor, post: Tensor, x: Tensor, x_hat: Tensor
) -> Mapping[Engine, MLPParts]:
    ball, view = given.block.mlp, given.view
    defect = ball.output_bound(Neurons(view, latents, x).residual())
    among = Neurons(view, latents)
    whole = ball.mlp(x_hat)
    defect_true = length(ball.mlp(x) - whole)
    parts: dict[Engine, MLPParts] = {}
    for engine in ENGINES:
        simple = among.simplified(engine)
        parts[engine] = MLPParts(
            norm_defect=defect,
            interaction=ball.output_bound(simple.gap),
            consistency=length(post - (mid + simple.output)),
            norm_defect_true=defect_true,
            interaction_true=length(whole - simple.output),
        )
    return parts


def restarted(
    inputs: list[BlockInputs], scored: Bool[Tensor, "S T"]
) -> dict[str, Float[Tensor, "B blocks"]]:
    """What each propagating step would add if the radius before it were the true distance.

    This is the step's own looseness, without what the steps before it compounded; "... true" is
    how far the layer's output really moves from decoded to true input.
    """
    columns: dict[str, list[Tensor]] = {}
    for given in inputs:
        block, pre, mid = given.block, given.pre.decoded, given.mid.decoded[scored]
        x = block.mlp_norm(mid)
        reach = through_norm(block.mlp_norm, mid, given.mid.distance[scored])
        output = (given.post.true - given.mid.true)[scored]
        moves = {
            "MLP moves": block.mlp.spread(x, reach),
            "MLP moves true": length(output - block.mlp.mlp(x)),
        }
        if block.attention is not None:
            x = block.attention_norm(pre)
            reach = through_norm(block.attention_norm, pre, given.pre.distance)
            attended, ours = given.mid.true - given.pre.true, block.attention.attention(x)
            moves["attention moves"] = block.attention.spread(x, reach)[scored]
            moves["attention moves true"] = length(attended - ours)[scored]
        for name, values in moves.items():
            columns.setdefault(name, []).append(values)
    return {name: torch.stack(values, 1) for name, values in columns.items()}
