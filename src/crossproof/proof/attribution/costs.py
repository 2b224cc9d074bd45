"""Which latents and neurons the interaction terms are made of, in the proof's units.

The units are lengths in the residual stream: a pair (i, j) is charged L ‖o_n‖ |p_nj| at every
neuron n that i dominates (T1's expression, before signs cancel and before σ's local slope; T3's
for gated MLPs, where L is inside).
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary, owned_contributions
from crossproof.interactions.matrix import Accumulator, Interactions
from crossproof.interactions.measuring import token_pairs
from crossproof.lm.constants import LIPSCHITZ
from crossproof.proof.bounds.gated import gated_interaction
from crossproof.proof.bounds.preactivations import gate_path, linear_path

NEURONS = 5
"""Neurons named for a pair."""


class Costs:
    """Sums charges over a pass."""

    def __init__(self, views: dict[int, MLPDictionary]) -> None:
        self.views = views
        self.pairs = Accumulator()
        self.neurons: dict[int, Tensor] = {}
        self.codes: list[SparseLatents] = []

    def add(self, latents: SparseLatents) -> None:
        """One batch of tokens."""
        found = token_pairs(latents, self.views)
        self.pairs.add(found.collected())
        self.codes.append(latents)
        for block, view in self.views.items():
            charge = neuron_charges(view, latents).sum(0)
            self.neurons[block] = self.neurons.get(block, torch.zeros_like(charge)) + charge

    def rows(self, count: int) -> dict[str, Any]:
        """The costliest pairs and neurons, per token; a list each, largest first."""
        found = self.pairs.result()
        if found is None or found.tokens == 0:
            return {"pairs": [], "neurons": []}
        slope = _slope(self.views)
        top = found.top_pairs(count, normalise="sum")
        chosen = [tuple(pair) for pair in found.pairs[top].tolist()]
        where = self._pair_neurons({(int(h), int(k)) for h, k in chosen})
        pairs = [self._pair(found, int(row), slope, where) for row in top.tolist()]
        whole = sum(float(sums.sum()) for sums in self.neurons.values())
        return {
            "pairs": pairs,
            "neurons": self._top_neurons(count, found.tokens),
            "per_token": whole / found.tokens,
        }

    def _pair(
        self, found: Interactions, row: int, slope: float, where: dict[Any, Tensor]
    ) -> dict[str, Any]:
        h, k = (int(latent) for latent in found.pairs[row])
        by_block = {
            str(block): slope * float(found.pair_sums("I", normalise="mean", block=block)[row])
            for block in found.blocks
        }
        neurons = []
        for block in found.blocks:
            values, places = where[h, k, block].topk(min(NEURONS, len(where[h, k, block])))
            neurons += [
                {"block": block, "neuron": int(n), "per_token": float(v) / found.tokens}
                for v, n in zip(values, places, strict=True)
                if v > 0
            ]
        neurons.sort(key=lambda entry: -float(entry["per_token"]))
        return {
            "latents": [h, k],
            "coactive": int(found.coactive[row]),
            "per_token": slope * float(found.pair_sums("I", normalise="mean")[row]),
            "by_block": by_block,
            "neurons": neurons[:NEURONS],
        }

    def _top_neurons(self, count: int, tokens: int) -> list[dict[str, Any]]:
        rows = [
            {"block": block, "neuron": n, "per_token": value / tokens}
            for block, sums in self.neurons.items()
            for n, value in enumerate(sums.tolist())
        ]
        return sorted(rows, key=lambda row: -float(row["per_token"]))[:count]

    def _pair_neurons(self, chosen: set[tuple[int, int]]) -> dict[Any, Tensor]:
        """Charges [N] of each chosen pair at each block, summed over all tokens."""
        sums: dict[Any, Tensor] = defaultdict(lambda: torch.zeros(0))
        for block, view in self.views.items():
            for h, k in chosen:
                sums[h, k, block] = torch.zeros(view.mlp.n_neurons, dtype=torch.float64)
        for latents in self.codes:
            for block, view in self.views.items():
                owner = view.dominance(latents).owner
                for h, k in chosen:
                    sums[h, k, block] += _pair_charges(view, latents, owner, h, k).cpu()
        return sums


def neuron_charges(view: MLPDictionary, latents: SparseLatents) -> Float[Tensor, "B N"]:
    """The interaction's charge at each neuron: L ‖o_n‖ sum of |p_nj|, j ≠ i(n); T3's if gated."""
    dominance = view.dominance(latents)
    linear = linear_path(view, latents, None, dominance)
    if not view.mlp.gated:
        return LIPSCHITZ[view.mlp.activation] * linear.rest * view.output_norms
    gate = gate_path(view, latents, None, dominance)
    return gated_interaction(view.mlp.activation, gate, linear).total * view.output_norms


def _pair_charges(
    view: MLPDictionary, latents: SparseLatents, owner: Tensor, h: int, k: int
) -> Tensor:
    """L ‖o_n‖ |p| of either where the other is dominant, summed over tokens (value and gate)."""
    slope, total = LIPSCHITZ[view.mlp.activation], view.G.new_zeros(view.mlp.n_neurons)
    entry_owner = torch.where(owner >= 0, latents.indices[owner.clamp_min(0).long()], -1)
    for leader, other in ((h, k), (k, h)):
        mask = latents.indices == other
        tokens, values = latents.token_index[mask], latents.values[mask]
        led = (entry_owner[tokens] == leader).to(view.G.dtype)
        sizes = values.abs()[:, None] * view.G[other].abs()
        if view.G_gate is None or view.baseline_gate is None:
            total = total + slope * (led * sizes).sum(0)
            continue
        gates = values.abs()[:, None] * view.G_gate[other].abs()
        value = (view.baseline + owned_contributions(latents, view.G, owner))[tokens]
        gate = (view.baseline_gate + owned_contributions(latents, view.G_gate, owner))[tokens]
        opened = view.mlp.activation(gate).abs()
        total = total + (led * (slope * value.abs() * gates + opened * sizes)).sum(0)
    return total * view.output_norms


def _slope(views: dict[int, MLPDictionary]) -> float:
    """What the interaction I is multiplied by: L, which a gated MLP's I has inside."""
    mlp = next(iter(views.values())).mlp
    return 1.0 if mlp.gated else LIPSCHITZ[mlp.activation]
