"""One pass over sequences: the chain of bounds and the last block's certificates, per token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.encode import for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.lm.model import LanguageModel
from crossproof.proof.attribution.chain import (
    AttentionMode,
    BlockInputs,
    Chain,
    MLPParts,
    Stage,
    block_inputs,
    mlp_parts,
    restarted,
    run_chain,
)
from crossproof.proof.attribution.costs import CostSums
from crossproof.proof.attribution.figures import InteractionCosts
from crossproof.proof.attribution.model_parts import (
    ModelParts,
    block_view,
    chain_hookpoints,
    last_view,
)
from crossproof.proof.attribution.replacements import replaced_last_block
from crossproof.proof.attribution.simplified import ENGINES
from crossproof.proof.attribution.streams import StreamBatch, stream_batches
from crossproof.proof.bounds.outputs import Baselines
from crossproof.working import told

AttributedParts = Literal["both", "last-block"]
BOTH: tuple[AttentionMode, ...] = ("measured", "bounded")


@dataclass(frozen=True, eq=False)
class TokenBounds:
    """What one pass found, token by token.

    Arrays of `tokens` cover scored positions that have a next token; those of `last` every scored
    position. `sequence` of each says which sequence a row belongs to.
    """

    baselines: Baselines
    stages: dict[str, tuple[Stage, ...]]
    """By chain ("dominant, measured attention", ...)."""
    tokens: dict[str, Tensor]
    last: dict[str, Tensor]
    costs: InteractionCosts
    why_unbounded: str
    """Why there is no chain with bounded attention; empty if there is."""


def token_bounds(
    model: LanguageModel,
    parts: ModelParts,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    which: AttributedParts = "both",
    batch_sequences: int = 1,
    top: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> TokenBounds:
    """Every bound at every scored token of `sequences`.

    `progress` is called with sequences done and their number. Raises CrossproofError if the
    crosscoder lacks hookpoints, or no token has a next one.
    """
    crosscoder = for_figures(crosscoder)
    views = _views(parts, crosscoder) if which == "both" else {}
    last = last_view(parts, crosscoder)
    costs = CostSums(views or {model.n_blocks - 1: last})
    tokens: dict[str, list[Tensor]] = defaultdict(list)
    final: dict[str, list[Tensor]] = defaultdict(list)
    stages: dict[str, tuple[Stage, ...]] = {}
    labels: list[Tensor] = []
    batches = stream_batches(model, crosscoder, sequences, batch_sequences)
    for batch in told(batches, lambda each: each.encoded.end, len(sequences), progress):
        if not batch.labelled.any():
            continue
        labels.append(batch.labels)
        costs.add(batch.latents)
        if which == "both":
            _extend(tokens, _chains(model, parts, crosscoder, batch, views, stages))
        _extend(final, replaced_last_block(parts, batch, last))
    if not labels:
        raise CrossproofError("There are no tokens to attribute: give a text with ordinary tokens.")
    baselines = Baselines.of(torch.cat(labels), model.vocab_size)
    why = next((block.why_not for block in parts.blocks if block.attention is None), "")
    joined = [{k: torch.cat(rows) for k, rows in every.items()} for every in (tokens, final)]
    return TokenBounds(baselines, stages, joined[0], joined[1], costs.costliest(top), why)


def _views(parts: ModelParts, crosscoder: Crosscoder) -> dict[int, MLPDictionary]:
    views = {}
    for block, names in zip(parts.blocks, chain_hookpoints(crosscoder), strict=True):
        assert names.mlp_in is not None
        views[block.index] = block_view(block, crosscoder, names.mlp_in)
    return views


def _chains(
    model: LanguageModel,
    parts: ModelParts,
    crosscoder: Crosscoder,
    batch: StreamBatch,
    views: dict[int, MLPDictionary],
    stages: dict[str, tuple[Stage, ...]],
) -> dict[str, Tensor]:
    inputs = block_inputs(parts, crosscoder, batch, views)
    pieces = [mlp_parts(given, batch.latents, batch.scored) for given in inputs]
    labelled, labels = batch.labelled, batch.labels
    r = inputs[-1].post.decoded[batch.scored][labelled]
    rows = batch.positions(labelled) | {
        "label": labels,
        "true_loss": _true_losses(model, batch),
        "claimed_loss": parts.logits.claimed_losses(r, labels),
        "true_radius": _true_radii(inputs, batch)[labelled],
    }
    alone = restarted(inputs, batch.scored).items()
    rows |= {f"restarted/{name}": values[labelled] for name, values in alone}
    chains: dict[str, Chain] = {}
    modes = BOTH if parts.attention_bounded else BOTH[:1]
    for engine in ENGINES:
        mlps: list[MLPParts] = [piece[engine] for piece in pieces]
        for name in ("interaction", "norm_defect"):
            truth = [getattr(mlp, f"{name}_true")[labelled] for mlp in mlps]
            rows[f"{engine}/{name}_true"] = torch.stack(truth, 1)
        for mode in modes:
            chains[f"{engine}, attention {mode}"] = run_chain(inputs, mlps, batch.scored, mode)
    every = torch.cat([chain.radii[:, labelled] for chain in chains.values()])
    bounds = parts.logits.loss_bounds(r, labels, every)
    lengths = [len(chain.stages) for chain in chains.values()]
    for (name, chain), radii, losses in zip(
        chains.items(), every.split(lengths), bounds.split(lengths), strict=True
    ):
        stages[name] = chain.stages
        rows |= {f"{name}/radius": radii.T, f"{name}/loss_bound": losses.T}
    return rows


def _true_losses(model: LanguageModel, batch: StreamBatch) -> Tensor:
    """The model's own, from its logits in float64: those of `token_losses` are rounded."""
    targets = batch.tokens.roll(-1, 1).to(model.device, torch.int64)
    losses = [
        torch.nn.functional.cross_entropy(row.double(), target, reduction="none")
        for row, target in zip(model.logits(batch.tokens), targets, strict=True)
    ]
    return torch.stack(losses)[batch.scored][batch.labelled]


def _true_radii(inputs: list[BlockInputs], batch: StreamBatch) -> Tensor:
    """‖r - r̂‖ at the first hookpoint, and at every block's resid_mid and resid_post."""
    streams = [inputs[0].pre, *(stream for each in inputs for stream in (each.mid, each.post))]
    return torch.stack([stream.distance[batch.scored] for stream in streams], 1)


def _extend(rows: dict[str, list[Tensor]], more: dict[str, Tensor]) -> None:
    for name, values in more.items():
        rows[name].append(values)
