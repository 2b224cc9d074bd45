"""Where clusters live: the interaction inside each of them, neuron by neuron."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.clusters.similarities import PairValues
from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.gated import gated_terms
from crossproof.interactions.matrix import Interactions
from crossproof.interactions.second_differences import second_difference_sums
from crossproof.lm.constants import LIPSCHITZ

_NUMBERS = 2**20
"""Numbers in the largest temporary."""


@dataclass(frozen=True)
class Neuron:
    """A neuron and its share of a cluster's internal interaction."""

    block: int
    neuron: int
    share: float


def internal_interaction(
    views: Mapping[int, MLPDictionary], latents: SparseLatents, labels: Int[Tensor, " H"]
) -> dict[int, Float[Tensor, "C N"]]:
    """By block: Σ over tokens of I_n(i,j) with i, the dominant one, and j in the same cluster.

    `labels` numbers each latent's cluster, -1 where it is in none. Summed over neurons this is I
    of the cluster's pairs, both directions, as `Interactions` counts it (claim 2; T3 for gated
    MLPs, whose terms with two latents beside the dominant one are not counted here). float64.
    """
    count = int(labels.max()) + 1 if len(labels) else 0
    sums = {}
    for block, view in views.items():
        out = torch.zeros(max(count, 0), view.mlp.n_neurons, dtype=torch.float64)
        step = max(1, _NUMBERS // (view.mlp.n_neurons * _widest(latents)))
        for start in range(0, latents.n_tokens, step):
            part = latents.rows(start, min(start + step, latents.n_tokens))
            _add(out, view, part, labels)
        sums[block] = out
    return sums


def strongest_neurons(sums: Mapping[int, Float[Tensor, "C N"]], count: int) -> list[list[Neuron]]:
    """The neurons that carry most of each cluster's internal interaction, largest first."""
    blocks = list(sums)
    every = torch.cat([sums[block] for block in blocks], 1)
    place = [(block, neuron) for block in blocks for neuron in range(sums[block].shape[1])]
    found = []
    for row in every:
        share, index = (row / row.sum().clamp_min(1e-300)).topk(min(count, len(row)))
        ranked = zip(index.tolist(), share.tolist(), strict=True)
        found.append([Neuron(place[i][0], place[i][1], value) for i, value in ranked if value > 0])
    return found


def differences_of(
    views: Mapping[int, MLPDictionary], latents: SparseLatents, pairs: Int[Tensor, "M 2"]
) -> PairValues:
    """Σ over tokens and blocks of sum_n ‖o_n‖ |δ²_n| at each token's other latents."""
    sums = torch.zeros(len(pairs), dtype=torch.float64)
    for view in views.values():
        sums += second_difference_sums(view, latents, pairs, "others").neurons
    return PairValues(pairs, sums)


def coactive_pairs(found: Interactions, latents: Int[Tensor, " R"]) -> Int[Tensor, "M 2"]:
    """The measured pairs whose two latents are both among the chosen ones."""
    chosen = torch.zeros(found.n_latents, dtype=torch.bool)
    chosen[latents] = True
    pairs = found.pairs.to(torch.int64)
    return pairs[chosen[pairs].all(1)]


def _add(
    out: Float[Tensor, "C N"], view: MLPDictionary, latents: SparseLatents, labels: Tensor
) -> None:
    if len(latents.indices) == 0 or len(out) == 0:
        return
    cluster, token = labels[latents.indices], latents.token_index
    dominance = view.dominance(latents)
    owner = dominance.owner.to(torch.int64)
    leading = torch.where(owner >= 0, cluster[owner.clamp_min(0)], -1)[token]
    entry = torch.arange(len(cluster))[:, None]
    inside = (leading == cluster[:, None]) & (cluster[:, None] >= 0) & (owner[token] != entry)
    charged = _charges(view, latents, dominance)
    mine = (cluster >= 0).nonzero()[:, 0]
    out.index_add_(0, cluster[mine], (charged * inside)[mine])


def _charges(
    view: MLPDictionary, latents: SparseLatents, dominance: Dominance
) -> Float[Tensor, "E N"]:
    """What each entry costs at each neuron if it is not the dominant one."""
    values, token = latents.values.double()[:, None], latents.token_index
    norms = view.output_norms.double()
    linear = (values * view.G[latents.indices]).abs()
    if view.G_gate is None or view.baseline_gate is None or dominance.gate is None:
        return norms * linear
    gate = (values * view.G_gate[latents.indices]).abs()
    value = (view.baseline.double() + dominance.value.double()).abs()[token]
    opened = view.baseline_gate.double() + dominance.gate.double()
    opening = view.mlp.activation(opened).abs()[token]
    return norms * gated_terms(LIPSCHITZ[view.mlp.activation], opening, value, gate, linear).alone


def _widest(latents: SparseLatents) -> int:
    return max(1, int(latents.offsets.diff().max())) if latents.n_tokens else 1
