"""One pass over sequences: the chain of bounds and the last block's certificates, per token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interactions.contributions import MLPDictionary
from crossproof.lm.model import LanguageModel
from crossproof.proof.attribution.chain import Attention, Chain, Stage, run_chain
from crossproof.proof.attribution.costs import Costs
from crossproof.proof.attribution.harvest import Batch, batches, block_inputs
from crossproof.proof.attribution.last_block import Verdict
from crossproof.proof.attribution.places import ModelParts, block_view, chain_hookpoints, last_view
from crossproof.proof.attribution.simplified import ENGINES, Neurons, Simplified, chunks
from crossproof.proof.attribution.steps import BlockInputs, MLPParts, mlp_parts, restarted
from crossproof.proof.bounds.outputs import Baselines
from crossproof.rounding import gamma

Parts = Literal["both", "last-block"]
KEPT: tuple[int | None, ...] = (1, 2, 3, 4, 8, None)
"""How many of the largest contributions reach every neuron; None is all of them."""
MEASURED: tuple[Attention, ...] = ("measured",)
REFERENCES = ("model", "all latents")
"""What a simplified last MLP is compared with: MLP(x), or MLP(x̂), which leaves out the residual."""
CENTRED = ", centred"
"""Ends the name of a variant whose certificate uses T1c."""
VERDICT = ("unchanged", "certified", "error", "bound", "excess", "terms")


@dataclass(frozen=True, eq=False)
class Attribution:
    """What one pass found, token by token.

    Arrays of `tokens` cover scored positions that have a next token; those of `last` every scored
    position. `sequence` of each says which sequence a row belongs to.
    """

    baselines: Baselines
    stages: dict[str, tuple[Stage, ...]]
    """By chain ("dominant, measured attention", ...)."""
    tokens: dict[str, Tensor]
    last: dict[str, Tensor]
    costs: dict[str, Any]
    why_unbounded: str
    """Why there is no chain with bounded attention; empty if there is."""


def attribute(
    model: LanguageModel,
    parts: ModelParts,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    which: Parts = "both",
    batch_sequences: int = 4,
    top: int = 12,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Every bound at every scored token of `sequences`.

    `progress` is called with sequences done and their number. Raises CrossproofError if the
    crosscoder lacks hookpoints, or no token has a next one.
    """
    baselines = label_baselines(model, sequences)
    views = _views(parts, crosscoder) if which == "both" else {}
    last = last_view(parts, crosscoder)
    costs = Costs(views or {model.n_blocks - 1: last})
    tokens: dict[str, list[Tensor]] = defaultdict(list)
    final: dict[str, list[Tensor]] = defaultdict(list)
    stages: dict[str, tuple[Stage, ...]] = {}
    for batch in batches(model, crosscoder, sequences, batch_sequences):
        costs.add(batch.latents)
        if which == "both":
            _extend(tokens, _chains(model, parts, crosscoder, batch, views, stages))
        _extend(final, last_block(parts, batch, last))
        if progress is not None:
            progress(batch.first + len(batch.tokens), len(sequences))
    why = next((block.why_not for block in parts.blocks if block.attention is None), "")
    joined = [{name: torch.cat(rows) for name, rows in found.items()} for found in (tokens, final)]
    return Attribution(baselines, stages, joined[0], joined[1], costs.rows(top), why)


def label_baselines(model: LanguageModel, sequences: Int[Tensor, "S T"]) -> Baselines:
    """What knowing only the next tokens' frequencies achieves on these sequences."""
    scored = scored_positions(sequences, model.special_ids)
    labels = sequences[:, 1:][scored[:, :-1]].long()
    if not len(labels):
        raise CrossproofError("There are no tokens to attribute: give a text with ordinary tokens.")
    return Baselines.of(labels, model.vocab_size)


def _views(parts: ModelParts, crosscoder: Crosscoder) -> dict[int, MLPDictionary]:
    views = {}
    for block, places in zip(parts.blocks, chain_hookpoints(crosscoder), strict=True):
        assert places.mlp_in is not None
        views[block.index] = block_view(block, crosscoder, places.mlp_in)
    return views


def _chains(
    model: LanguageModel,
    parts: ModelParts,
    crosscoder: Crosscoder,
    batch: Batch,
    views: dict[int, MLPDictionary],
    stages: dict[str, tuple[Stage, ...]],
) -> dict[str, Tensor]:
    inputs = block_inputs(parts, crosscoder, batch, views)
    pieces = [mlp_parts(given, batch.latents, batch.scored) for given in inputs]
    labelled, labels = batch.labelled, batch.labels
    r = inputs[-1].post[batch.scored][labelled]
    rows = batch.positions(labelled) | {
        "label": labels,
        "true_loss": _true_losses(model, batch),
        "claimed_loss": parts.logits.claimed_losses(r, labels),
        "true_radius": _true_radii(inputs, batch)[labelled],
    }
    alone = restarted(inputs, batch.scored).items()
    rows |= {f"restarted/{name}": values[labelled] for name, values in alone}
    chains: dict[str, Chain] = {}
    modes: tuple[Attention, ...] = ("measured", "bounded") if parts.attention_bounded else MEASURED
    for engine in ENGINES:
        mlps: list[MLPParts] = [piece[engine] for piece in pieces]
        for name in ("interaction", "norm_defect"):
            found = [getattr(mlp, f"{name}_true")[labelled] for mlp in mlps]
            rows[f"{engine}/{name}_true"] = torch.stack(found, 1)
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


def _true_losses(model: LanguageModel, batch: Batch) -> Tensor:
    """The model's own, from its logits in float64: those of `token_losses` are rounded."""
    targets = batch.tokens.roll(-1, 1).to(model.device, torch.int64)
    losses = [
        torch.nn.functional.cross_entropy(row.double(), target, reduction="none")
        for row, target in zip(model.logits(batch.tokens), targets, strict=True)
    ]
    return torch.stack(losses)[batch.scored][batch.labelled]


def _true_radii(inputs: list[BlockInputs], batch: Batch) -> Tensor:
    """‖r - r̂‖ at the first hookpoint, and at every block's resid_mid and resid_post."""
    pairs = [(inputs[0].true_pre, inputs[0].pre)]
    for given in inputs:
        pairs += [(given.true_mid, given.mid), (given.true_post, given.post)]
    return torch.stack([(true - ours)[batch.scored].norm(dim=1) for true, ours in pairs], 1)


def last_block(parts: ModelParts, batch: Batch, view: MLPDictionary) -> dict[str, Tensor]:
    """Verdicts on every simplified last MLP, against MLP(x) and against MLP(x̂)."""
    block, judge = parts.blocks[-1], parts.last
    mid = batch.true[f"blocks.{block.index}.hook_resid_mid"][batch.scored]
    x = block.mlp_norm(mid)
    # The norm's own rounding: relative to its output, and to r where a mean is subtracted.
    lost = gamma(8 * len(mid.T) + 64, mid.dtype) * block.mlp_norm.weight.abs().max()
    x_error = lost * (len(mid.T) ** 0.5) * (2 + mid.norm(dim=1) / block.mlp_norm.scale(mid))
    x_error = x_error + lost * block.mlp_norm.bias.norm()
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for part, code in chunks(view, batch.latents):
        among = Neurons(view, code, rigorous=True)
        against = Neurons(view, code, x[part], x_error[part], rigorous=True)
        given = {
            "model": (against, view.mlp.neurons(x[part])),
            "all latents": (among, view.neurons(*view.sums(code))),
        }
        for reference, (neurons, values) in given.items():
            for variant, simple, centre in _variants(neurons, reference):
                verdict = judge.judge(mid[part], values, simple)
                true_gaps = (values - simple.neurons).abs() + neurons.rounding
                ceiling = judge.judge(mid[part], values, replace(simple, gap=true_gaps))
                found = _fields(verdict) | {"ceiling": ceiling.certified}
                _extend(rows, {f"{reference}/{variant}/{k}": v for k, v in found.items()})
                if centre is None:
                    continue
                found = _fields(_around(verdict, judge.judge(mid[part], values, centre)))
                name = variant + CENTRED
                _extend(rows, {f"{reference}/{name}/{k}": v for k, v in found.items()})
    every = {name: torch.cat(values) for name, values in rows.items()}
    return every | batch.positions(torch.ones_like(batch.labelled))


def _variants(
    neurons: Neurons, reference: str
) -> Iterator[tuple[str, Simplified, Simplified | None]]:
    """Name, simplified MLP, and the centre around which T1c bounds the model's neurons."""
    for m in KEPT:
        if m is not None or reference == "model":  # against all latents it is the same MLP
            yield f"keep {m or 'all'}", neurons.keep(m), neurons.keep_centred(m)
    yield "additive", neurons.additive(), None


def _fields(verdict: Verdict) -> dict[str, Tensor]:
    return {field: getattr(verdict, field) for field in VERDICT}


def _around(simple: Verdict, centre: Verdict) -> Verdict:
    """The simplified MLP's verdict as the centre proves it: both must predict the same."""
    certified = centre.certified & (centre.prediction == simple.prediction)
    return replace(
        centre, prediction=simple.prediction, unchanged=simple.unchanged, certified=certified
    )


def _extend(rows: dict[str, list[Tensor]], found: dict[str, Tensor]) -> None:
    for name, values in found.items():
        rows[name].append(values)
