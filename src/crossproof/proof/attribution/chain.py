"""The chain of bounds through all blocks, for every token: base ball, steps, final radius.

‖r - r̂‖ ≤ ρ at each hookpoint of the residual stream, r being the model's and r̂ the decoded one:

    ρ_mid  = ρ_pre + [attention moves] + κ_attention
    ρ_post = ρ_mid + [MLP moves] + ν + interaction + κ

(docs/attribution.md). Every part is a `Stage`; radii only grow from stage to stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.proof.attribution.balls import through_norm
from crossproof.proof.attribution.steps import BlockInputs, MLPParts
from crossproof.rounding import upward

Attention = Literal["bounded", "measured"]
"""bounded: attention moves by what the ball allows. measured: its output is the model's own."""

Kind = Literal["measured", "propagates", "code"]
"""measured: read off the model's activations. propagates: bounds what the ball so far allows.
code: a function of latents, dictionary and weights alone."""


@dataclass(frozen=True)
class Stage:
    """One summand of the radius."""

    block: int | None
    part: str
    kind: Kind

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

    @property
    def sizes(self) -> Float[Tensor, "stages B"]:
        """What each stage adds."""
        return torch.diff(self.radii, dim=0, prepend=torch.zeros_like(self.radii[:1]))


def run_chain(
    inputs: list[BlockInputs],
    parts: list[MLPParts],
    scored: Bool[Tensor, "S T"],
    attention: Attention,
) -> Chain:
    """The chain of one engine (`parts`, a block each) with attention bounded or measured."""
    first = inputs[0]
    radius = (first.true_pre - first.pre).norm(dim=-1)
    stages, radii = [BASE], [radius]

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
        x = given.block.mlp_norm(given.mid[scored])
        reach = through_norm(given.block.mlp_norm, given.mid[scored], radii[-1][scored])
        add(
            Stage(index, "MLP moves", "propagates"),
            _on_grid(given.block.mlp.spread(x, reach), scored),
        )
        add(Stage(index, "norm defect", "code"), _on_grid(mlp.norm_defect, scored))
        add(Stage(index, "interaction", "code"), _on_grid(mlp.interaction, scored))
        add(Stage(index, "MLP consistency", "code"), _on_grid(mlp.consistency, scored))
    return Chain(tuple(stages), torch.stack([grid[scored] for grid in radii]))


def measured_attention(given: BlockInputs) -> Float[Tensor, "S T"]:
    """‖r̂_mid - (r̂_pre + the model's own attention output)‖."""
    attended = given.true_mid - given.true_pre
    error: Tensor = (given.mid - (given.pre + attended)).norm(dim=-1)
    return error


def bounded_attention(
    given: BlockInputs, radius: Float[Tensor, "S T"]
) -> tuple[Float[Tensor, "S T"], Float[Tensor, "S T"]]:
    """What the ball lets the attention's output move by, and ‖r̂_mid - (r̂_pre + Attn(r̂_pre))‖.

    The second is a function of the codes of all positions, like κ of an MLP.
    """
    ball, norm = given.block.attention, given.block.attention_norm
    assert ball is not None  # the caller looked at `attention_bounded`
    x = norm(given.pre)
    moved = ball.spread(x, through_norm(norm, given.pre, radius))
    return moved, (given.mid - (given.pre + ball.attention(x))).norm(dim=-1)


def _on_grid(values: Float[Tensor, " B"], scored: Bool[Tensor, "S T"]) -> Float[Tensor, "S T"]:
    grid = values.new_zeros(scored.shape)
    grid[scored] = values
    return grid
