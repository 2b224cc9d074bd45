"""The model with its layers replaced by a dictionary: what transcoders are judged by.

A transcoder reads what a layer reads and writes what it writes, so it can take the layer's place.
Of a set of them, or of a cross-layer transcoder, all layers are replaced in one pass: what is read
is then itself the work of the layers replaced before.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from crossproof.crosscoder.live import LivePass, why_not_live
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.side_by_side import compacted
from crossproof.errors import CrossproofError
from crossproof.evaluation.intervals import Sums, estimate
from crossproof.evaluation.patching import DecodedBatch
from crossproof.evaluation.results import ReplacedLayers
from crossproof.evaluation.statistics import Array
from crossproof.evaluation.tally import EvaluationOptions, Tally
from crossproof.lm.model import LanguageModel
from crossproof.lm.pair import ModelPair
from crossproof.tables import Estimate

_MLP_OUT = re.compile(r"blocks\.(\d+)\.(?:hook_mlp_out|mlp\.hook_out)")


def replacement_of(model: LanguageModel, crosscoder: Crosscoder) -> tuple[Crosscoder | None, str]:
    """The dictionary as it can take the place of layers, or None and why it cannot.

    None without a word for what takes no layer's place: SAEs, crosscoders.
    """
    compact = compacted(crosscoder)
    if isinstance(model, ModelPair) or set(compact.layout.read) & set(compact.layout.written):
        return None, ""
    why = why_not_live(compact)
    return (None, why) if why else (compact, "")


def tally_replaced(batch: DecodedBatch, live: Crosscoder, tally: Tally) -> None:
    """Adds the sums of a batch: losses with what is written replaced, live and by zeros."""
    encoded, names = batch.encoded, live.hookpoints.names
    scored, layout = encoded.scored, live.layout
    current = LivePass(live, int(scored.sum()))

    def show(place: int, value: Tensor) -> None:
        current.read(place, value[scored])

    def put(place: int, value: Tensor) -> Tensor:
        new = value.clone()
        new[scored] = current.write(place).to(value.dtype)
        return new

    read = {names[at]: partial(show, at) for at in layout.read}
    write = {names[at]: partial(put, at) for at in layout.written}
    logits = batch.model.live_logits(encoded.tokens, read, write)
    tally.add("replaced/loss", _losses(logits, encoded.tokens, scored))
    nothing = torch.zeros_like(encoded.x[:, 0])
    zeros = [batch.patched(names[at], nothing) for at in layout.written]
    merged = {name: value for patch in zeros for name, value in patch.items()}
    tally.add("replaced/zero", batch.losses(merged))
    skips = len(layout.skips) * live.d_model**2
    tally.add("replaced/active", encoded.per_sequence(current.active_parameters + skips))


def _losses(logits: Float[Tensor, "S T V"], tokens: Tensor, scored: Tensor) -> Float[Tensor, " S"]:
    targets = tokens[:, 1:].to(logits.device, torch.int64)
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, reduction="none"
    )
    return (losses * scored[:, :-1]).double().sum(1)


def replaced_layers(
    model: LanguageModel, crosscoder: Crosscoder, sums: Sums, options: EvaluationOptions
) -> ReplacedLayers | None:
    """The figures of `tally_replaced`; None where nothing was replaced."""
    if "replaced/loss" not in sums:
        return None

    def figure(statistic: object) -> Estimate:
        made = estimate(sums, statistic, options.resamples, options.seed)  # type: ignore[arg-type]
        return Estimate(made.mean, made.ci)

    names = tuple(crosscoder.hookpoints.names[at] for at in crosscoder.written)
    result = ReplacedLayers(
        names,
        figure(lambda t: _nats(t, "replaced/loss")),
        figure(lambda t: _nats(t, "replaced/loss") - _nats(t, "loss")),
        figure(_recovered),
        figure(lambda t: (t["replaced/active"] / t["tokens"])[:, None]),
        _mlp_parameters(model, names),
    )
    if "ce-patch" not in sums:
        return result
    own, patched = sums["loss"].sum(0), sums["ce-patch"].sum(0)
    increases = (patched - own) / sums["predicted"].sum(0)
    return replace(result, alone=dict(zip(names, map(float, increases), strict=True)))


def _nats(totals: Sums, name: str) -> Array:
    return (totals[name] / totals["predicted"])[:, None]


def _recovered(totals: Sums) -> Array:
    zero = totals["replaced/zero"] - totals["loss"]
    return (1 - (totals["replaced/loss"] - totals["loss"]) / zero)[:, None]


def _mlp_parameters(model: LanguageModel, names: tuple[str, ...]) -> int | None:
    blocks = [_MLP_OUT.fullmatch(name) for name in names]
    try:
        mlps = [model.mlp(int(match[1])) for match in blocks if match]
    except CrossproofError:  # one that has no view
        return None
    if len(mlps) < len(names):
        return None
    return sum(mlp.n_parameters for mlp in mlps)
