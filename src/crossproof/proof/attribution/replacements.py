"""Every simplified last MLP against the model's own, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from crossproof.interactions.contributions import MLPDictionary
from crossproof.proof.attribution.last_block import Replacement
from crossproof.proof.attribution.model_parts import ModelParts
from crossproof.proof.attribution.simplified import Neurons, Simplified, chunks
from crossproof.proof.attribution.streams import StreamBatch
from crossproof.rounding import gamma

KEPT: tuple[int | None, ...] = (1, 2, 3, 4, 8, None)
"""How many of the largest contributions reach every neuron; None is all of them."""

REFERENCES = ("model", "all latents")
"""What a simplified last MLP is compared with: MLP(x), or MLP(x̂), which leaves out the residual."""
CENTRED = ", centred"
"""Ends the name of a variant whose certificate uses T1c."""
FIELDS = ("unchanged", "certified", "error", "bound", "excess", "terms")


def replaced_last_block(
    parts: ModelParts, batch: StreamBatch, view: MLPDictionary
) -> dict[str, Tensor]:
    """What every simplified last MLP does, against MLP(x) and against MLP(x̂)."""
    block, judge = parts.blocks[-1], parts.last
    mid = batch.true(block.index, "mid")[batch.scored]
    x = block.mlp_norm(mid)
    # The norm's own rounding: relative to its output, and to r where a mean is subtracted.
    lost = gamma(8 * len(mid.T) + 64, mid.dtype) * block.mlp_norm.weight.abs().max()
    x_error = lost * (len(mid.T) ** 0.5) * (2 + mid.norm(dim=1) / block.mlp_norm.scale(mid))
    x_error = x_error + lost * block.mlp_norm.bias.norm()
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for part, latents in chunks(view, batch.latents):
        among = Neurons(view, latents, rigorous=True)
        against = Neurons(view, latents, x[part], x_error[part], rigorous=True)
        given = {
            "model": (against, view.mlp.neurons(x[part])),
            "all latents": (among, view.neurons(*view.sums(latents))),
        }
        for reference, (neurons, values) in given.items():
            for variant, simple, centre in _variants(neurons, reference):
                verdict = judge.judge(mid[part], values, simple)
                true_gaps = (values - simple.neurons).abs() + neurons.rounding
                ceiling = judge.judge(mid[part], values, replace(simple, gap=true_gaps))
                name = f"{reference}/{variant}"
                rows[f"{name}/ceiling"].append(ceiling.certified)
                _extend(rows, name, verdict)
                if centre is not None:
                    around = _around(verdict, judge.judge(mid[part], values, centre))
                    _extend(rows, name + CENTRED, around)
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


def _around(simple: Replacement, centre: Replacement) -> Replacement:
    """The simplified MLP's verdict as the centre proves it: both must predict the same."""
    certified = centre.certified & (centre.prediction == simple.prediction)
    return replace(
        centre, prediction=simple.prediction, unchanged=simple.unchanged, certified=certified
    )


def _extend(rows: dict[str, list[Tensor]], name: str, verdict: Replacement) -> None:
    for field in FIELDS:
        rows[f"{name}/{field}"].append(getattr(verdict, field))
