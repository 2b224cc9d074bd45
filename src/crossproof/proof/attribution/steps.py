"""A block's steps on the grid of positions: what each costs whatever the radius, and by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary
from crossproof.proof.attribution.balls import through_norm
from crossproof.proof.attribution.places import Block
from crossproof.proof.attribution.simplified import ENGINES, Engine, Neurons, chunks


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
    """One block's streams on the grid of positions [S, T, D], in float64.

    Decoded where a position is scored, the model's own elsewhere (so that the radius there is 0).
    """

    block: Block
    view: MLPDictionary
    true_pre: Float[Tensor, "S T D"]
    true_mid: Float[Tensor, "S T D"]
    true_post: Float[Tensor, "S T D"]
    pre: Float[Tensor, "S T D"]
    mid: Float[Tensor, "S T D"]
    post: Float[Tensor, "S T D"]
    x_hat: Float[Tensor, "B D"]
    """The decoded MLP input of the scored positions."""


def restarted(
    inputs: list[BlockInputs], scored: Bool[Tensor, "S T"]
) -> dict[str, Float[Tensor, "B blocks"]]:
    """What each propagating step would add if the radius before it were the true distance.

    This is the step's own looseness, without what the steps before it compounded; "... true" is
    how far the layer's output really moves from decoded to true input.
    """
    columns: dict[str, list[Tensor]] = {}
    for given in inputs:
        block = given.block
        distance = (given.true_mid - given.mid)[scored].norm(dim=1)
        mid = given.mid[scored]
        x, reach = block.mlp_norm(mid), through_norm(block.mlp_norm, mid, distance)
        found = {
            "MLP moves": block.mlp.spread(x, reach),
            "MLP moves true": _distance(
                (given.true_post - given.true_mid)[scored], block.mlp.mlp(x)
            ),
        }
        if block.attention is not None:
            x = block.attention_norm(given.pre)
            before = (given.true_pre - given.pre).norm(dim=-1)
            reach = through_norm(block.attention_norm, given.pre, before)
            attended = given.true_mid - given.true_pre
            found["attention moves"] = block.attention.spread(x, reach)[scored]
            found["attention moves true"] = _distance(
                attended[scored], block.attention.attention(x)[scored]
            )
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    return {name: torch.stack(values, 1) for name, values in columns.items()}


def _distance(one: Tensor, other: Tensor) -> Tensor:
    distance: Tensor = (one - other).norm(dim=-1)
    return distance


def mlp_parts(
    given: BlockInputs, latents: SparseLatents, scored: Bool[Tensor, "S T"]
) -> Mapping[Engine, MLPParts]:
    """What an MLP's step costs under every engine, for the B scored tokens."""
    mid, post = given.mid[scored], given.post[scored]
    x = given.block.mlp_norm(mid)
    rows: dict[Engine, list[MLPParts]] = {engine: [] for engine in ENGINES}
    for part, code in chunks(given.view, latents):
        found = _chunk(given, code, mid[part], post[part], x[part], given.x_hat[part])
        for engine, values in found.items():
            rows[engine].append(values)
    names = MLPParts.__dataclass_fields__
    return {
        engine: MLPParts(**{name: _joined([getattr(p, name) for p in pieces]) for name in names})
        for engine, pieces in rows.items()
    }


def _chunk(
    given: BlockInputs, latents: SparseLatents, mid: Tensor, post: Tensor, x: Tensor, x_hat: Tensor
) -> Mapping[Engine, MLPParts]:
    ball, view = given.block.mlp, given.view
    defect = ball.output_bound(Neurons(view, latents, x).residual())
    among = Neurons(view, latents)
    whole = ball.mlp(x_hat)
    defect_true = (ball.mlp(x) - whole).norm(dim=1)
    found: dict[Engine, MLPParts] = {}
    for engine in ENGINES:
        simple = among.simplified(engine)
        found[engine] = MLPParts(
            norm_defect=defect,
            interaction=ball.output_bound(simple.gap),
            consistency=(post - (mid + simple.output)).norm(dim=1),
            norm_defect_true=defect_true,
            interaction_true=(whole - simple.output).norm(dim=1),
        )
    return found


def _joined(pieces: list[Tensor]) -> Tensor:
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)
