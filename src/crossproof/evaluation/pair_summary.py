"""From a measurement to plain values with intervals: what measure.json says of a crosscoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossproof.evaluation.bootstrap import Estimate, Sums, estimate
from crossproof.evaluation.contexts import LatentExample
from crossproof.evaluation.pair_contexts import PairExample
from crossproof.evaluation.pair_sums import Measurement
from crossproof.interactions.matrix import Interactions

SQUARE = 24
"""Latents in the matrix that is shown."""
OWNERS = 5
"""Latents listed a block: those that own most neurons."""


def totals(measured: Measurement, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Every form per token and the led share of neurons, mean over blocks, with 95% intervals."""
    names = [name for name in measured.totals if name != "tokens"]
    return {
        name: _as_dict(
            estimate(measured.totals, _per_token(name, "tokens", measured), resamples, seed)
        )
        for name in names
    }


def ratios(
    first: Measurement, second: Measurement, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Each form of `second` over that of `first`, with paired 95% intervals over sequences.

    Of the led share of neurons, which may be 0, the difference. Both must come from the same
    sequences.
    """
    paired: dict[str, NDArray[np.float64]] = {
        f"{side} {name}": values
        for side, measured in (("first", first), ("second", second))
        for name, values in measured.totals.items()
    }
    names = [name for name in first.totals if name != "tokens" and name in second.totals]

    def ratio(name: str) -> Any:
        below = _per_token(f"first {name}", "first tokens", first)
        above = _per_token(f"second {name}", "second tokens", second)

        def statistic(sums: Sums) -> NDArray[np.float64]:
            theirs, ours = below(sums).mean(1), above(sums).mean(1)
            whole: NDArray[np.float64] = ours - theirs if name == "led" else ours / theirs
            return whole[:, None]

        return statistic

    return {name: _as_dict(estimate(paired, ratio(name), resamples, seed)) for name in names}


def owners(found: Interactions) -> dict[str, list[dict[str, int | float]]]:
    """By block: the latents that own most (token, neuron) pairs, with their shares of them."""
    result = {}
    for block, counts in zip(found.blocks, found.owned.double(), strict=True):
        share, latent = (counts / counts.sum().clamp_min(1)).topk(min(OWNERS, len(counts)))
        rows = zip(latent.tolist(), share.tolist(), strict=True)
        result[str(block)] = [{"latent": h, "share": s} for h, s in rows]
    return result


def square(found: Interactions) -> dict[str, Any]:
    """I between the latents that interact most, per token, rows dominant, blocks summed."""
    chosen = found.strongest(SQUARE)
    values = found.matrix("I", normalise="mean")[chosen][:, chosen]
    return {"latents": chosen.tolist(), "I": values.tolist()}


def pair_rows(
    found: Interactions,
    top: torch.Tensor,
    examples: Sequence[PairExample],
    latents: Sequence[LatentExample],
) -> list[dict[str, Any]]:
    """The chosen pairs as plain values; `examples` in the order of `top`, `latents` in any."""
    by_latent = {example.latent: example for example in latents}
    rows = []
    for row, example in zip(top.tolist(), examples, strict=True):
        h, k = example.latents
        by_block = {
            str(block): float(found.pair_sums("I", normalise="coactive", block=block)[row])
            for block in found.blocks
        }
        rows.append(
            {
                "latents": [h, k],
                "coactive": int(found.coactive[row]),
                "active": [int(found.active[h]), int(found.active[k])],
                "per_token": float(found.pair_sums("I", normalise="mean")[row]),
                "per_coactive_token": {
                    form: float(found.pair_sums(form, normalise="coactive")[row])
                    for form in found.forms
                },
                "second_difference": example.second_difference,
                "by_block": by_block,
                "contexts": [asdict(context) for context in example.contexts],
                "latent_contexts": [
                    [asdict(context) for context in by_latent[latent].contexts] for latent in (h, k)
                ],
            }
        )
    return rows


def _per_token(name: str, tokens: str, measured: Measurement) -> Any:
    neurons = np.array(measured.led_of, dtype=np.float64) if name.endswith("led") else 1.0

    def statistic(sums: Sums) -> NDArray[np.float64]:
        values: NDArray[np.float64] = sums[name] / sums[tokens][:, None] / neurons
        return values

    return statistic


def _as_dict(figure: Estimate) -> dict[str, Any]:
    return {"mean": figure.mean, "ci": list(figure.ci), "by_block": figure.parts}
