"""Which latents and neurons the interaction terms are made of, in the proof's units.

The units are lengths in the residual stream: a pair (i, j) is charged L ‖o_n‖ |p_nj| at every
neuron n that i dominates (T1's expression, before signs cancel and before σ's local slope; T3's
for gated MLPs, where L is inside).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import MLPDictionary, owned_contributions
from crossproof.interactions.gated import gated_terms
from crossproof.interactions.matrix import Accumulator, Interactions
from crossproof.interactions.measuring import token_pairs
from crossproof.lm.constants import LIPSCHITZ
from crossproof.proof.attribution.figures import InteractionCosts, NeuronCost, PairCost
from crossproof.proof.bounds.gated import gated_interaction
from crossproof.proof.bounds.preactivations import gate_path, linear_path

NEURONS = 5
"""Neurons named for a pair."""


Charges = dict[tuple[int, int, int], Tensor]
"""Of a pair (i, j) at a block: what each neuron is charged."""


class CostSums:
    """Sums charges over a pass."""

    def __init__(self, views: dict[int, MLPDictionary]) -> None:
        self.views = views
        self.pairs = Accumulator()
        self.neurons: dict[int, Tensor] = {}
        self.latents: list[SparseLatents] = []

    def add(self, latents: SparseLatents) -> None:
        """One batch of tokens."""
        self.pairs.add(token_pairs(latents, self.views).collected())
        self.latents.append(latents)
        for block, view in self.views.items():
            charge = neuron_charges(view, latents).sum(0)
            self.neurons[block] = self.neurons.get(block, 0) + charge

    def costliest(self, count: int) -> InteractionCosts:
        """The costliest pairs and neurons, per token."""
        interactions = self.pairs.result()
        if interactions is None or interactions.tokens == 0:
            return InteractionCosts([], [])
        top = interactions.top_pairs(count, normalise="sum")
        chosen = {(int(h), int(k)) for h, k in interactions.pairs[top].tolist()}
        charges = self._pair_charges(chosen)
        whole = sum(float(sums.sum()) for sums in self.neurons.values())
        return InteractionCosts(
            [self._pair(interactions, int(row), charges) for row in top.tolist()],
            costliest_neurons(self.neurons, interactions.tokens, count),
            whole / interactions.tokens,
        )

    def _pair(self, interactions: Interactions, row: int, charges: Charges) -> PairCost:
        h, k = (int(latent) for latent in interactions.pairs[row])
        slope, blocks = _slope(self.views), interactions.blocks

        def size(block: int | None = None) -> float:
            sums = interactions.pair_sums("I", normalise="mean", block=block)
            return slope * float(sums[row])

        at = {block: charges[h, k, block] for block in blocks}
        neurons = costliest_neurons(at, interactions.tokens, NEURONS)
        by_block = {str(block): size(block) for block in blocks}
        charged = [neuron for neuron in neurons if neuron.per_token > 0]
        return PairCost((h, k), int(interactions.coactive[row]), size(), by_block, charged)

    def _pair_charges(self, chosen: set[tuple[int, int]]) -> Charges:
        """Charges [N] of each chosen pair at each block, summed over all tokens."""
        sums: Charges = {}
        for latents in self.latents:
            for block, view in self.views.items():
                owner = view.dominance(latents).owner
                for h, k in chosen:
                    charge = _pair_charges(view, latents, owner, h, k).cpu()
                    sums[h, k, block] = sums.get((h, k, block), 0) + charge
        return sums


def costliest_neurons(
    charges: Mapping[int, Float[Tensor, " N"]], tokens: int, count: int
) -> list[NeuronCost]:
    """The neurons of all blocks with the largest summed charges, per token."""
    every = [
        NeuronCost(block, n, value / tokens)
        for block, sums in charges.items()
        for n, value in enumerate(sums.tolist())
    ]
    return sorted(every, key=lambda neuron: -neuron.per_token)[:count]


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
    """What `Interactions` sums as I of the pair, at each neuron: L ‖o_n‖ |p| of either where the
    other is dominant; T3's charges if gated."""
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
        opening = view.mlp.activation(gate).abs()
        terms = gated_terms(slope, opening, value.abs(), gates, sizes)
        total = total + (led * terms.alone).sum(0)
    if view.G_gate is not None:
        total = total + slope * _both_paths(view, latents, entry_owner, h, k)
    return total * view.output_norms


def _both_paths(
    view: MLPDictionary, latents: SparseLatents, owner: Tensor, h: int, k: int
) -> Float[Tensor, " N"]:
    """Of one on the gate and the other on the linear path where neither is dominant, summed over
    tokens."""
    assert view.G_gate is not None
    pair = []
    for latent in (h, k):
        mask = latents.indices == latent
        sizes = latents.values.new_zeros(latents.n_tokens)
        pair.append(sizes.index_add_(0, latents.token_index[mask], latents.values[mask].abs()))
    crossed = view.G_gate[h].abs() * view.G[k].abs() + view.G_gate[k].abs() * view.G[h].abs()
    free = ((owner != h) & (owner != k)).to(view.G.dtype)
    return crossed * ((pair[0] * pair[1]) @ free)


def _slope(views: dict[int, MLPDictionary]) -> float:
    """What the interaction I is multiplied by: L, which a gated MLP's I has inside."""
    mlp = next(iter(views.values())).mlp
    return 1.0 if mlp.gated else LIPSCHITZ[mlp.activation]
