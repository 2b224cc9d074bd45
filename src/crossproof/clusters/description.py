"""Clusters as plain values, with all that tables and the report show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.clusters.clustering import Partition
from crossproof.clusters.preparing import PreparedCrosscoder
from crossproof.clusters.result import (
    ClusterMember,
    ClusterSquare,
    LatentCluster,
    NeuronShare,
    Partner,
)
from crossproof.crosscoder.latents import SparseLatents
from crossproof.interactions.contributions import Dominance, MLPDictionary
from crossproof.interactions.gated import gated_terms
from crossproof.interactions.stream import AnyViews, TokenView, experts_by_mlps
from crossproof.interactions.views import read_by
from crossproof.lm.constants import LIPSCHITZ

SHOWN_CLUSTERS = 8
SHOWN_MEMBERS = 5
SHOWN_CONTEXTS = 2
PARTNERS = 3
NEURONS = 5
SQUARE = 32
"""Latents in the picture."""
_NUMBERS = 2**20
"""Numbers in the largest temporary."""


def describe(prepared: PreparedCrosscoder, partition: Partition) -> tuple[LatentCluster, ...]:
    """Every cluster of two or more, most internal interaction first; the first few in detail."""
    groups = partition.groups(least=2)
    inside = _inside(prepared, groups)
    neurons = strongest_neurons(_by_neuron(prepared, groups), NEURONS)
    order = sorted(range(len(groups)), key=lambda i: (-inside[i][0], i))
    whole = _among(prepared)
    clusters = []
    for rank, i in enumerate(order):
        latents = prepared.latents[groups[i]].tolist()
        central = torch.argsort(whole[groups[i]][:, groups[i]].sum(1), descending=True, stable=True)
        shown = [latents[m] for m in central[:SHOWN_MEMBERS]] if rank < SHOWN_CLUSTERS else []
        members = tuple(_member(prepared, latent) for latent in shown)
        clusters.append(LatentCluster(tuple(latents), *inside[i], tuple(neurons[i]), members))
    return tuple(clusters)


def interaction_square(
    prepared: PreparedCrosscoder, clusters: Sequence[LatentCluster]
) -> ClusterSquare:
    """I per token between members of the first clusters, who stand side by side."""
    chosen: list[int] = []
    sizes: list[int] = []
    for cluster in clusters:
        if len(chosen) + len(cluster.latents) <= SQUARE:
            chosen += cluster.latents
            sizes.append(len(cluster.latents))
    directed = prepared.evidence.interactions.matrix("I", normalise="mean")[chosen][:, chosen]
    return ClusterSquare(tuple(chosen), tuple(map(tuple, directed.tolist())), tuple(sizes))


def _member(prepared: PreparedCrosscoder, latent: int) -> ClusterMember:
    interactions = prepared.evidence.interactions
    return ClusterMember(
        latent,
        float(interactions.active[latent]) / interactions.tokens,
        prepared.texts.explanation("shown", latent),
        tuple(prepared.texts.strongest("judge shown", latent)[:SHOWN_CONTEXTS]),
        _partners(prepared, latent),
    )


def _partners(prepared: PreparedCrosscoder, latent: int) -> tuple[Partner, ...]:
    tokens, whole = prepared.evidence.interactions.tokens, prepared.evidence.interaction("I")
    with_latent = (whole.pairs == latent).any(1)
    other = whole.pairs[with_latent].sum(1) - latent
    values = whole.values[with_latent]
    best = torch.argsort(values, descending=True, stable=True)[:PARTNERS]
    pairs = zip(other[best].tolist(), (values[best] / tokens).tolist(), strict=True)
    return tuple(Partner(h, value) for h, value in pairs if value > 0)


def _inside(
    prepared: PreparedCrosscoder, groups: list[list[int]]
) -> list[tuple[float, float, dict[int, float]]]:
    """Interaction I a token inside each cluster, its share of all that its members take part in,
    and what each block has of it."""
    interactions = prepared.evidence.interactions
    by_block = {block: _among(prepared, block) for block in interactions.blocks}
    pairs = prepared.evidence.interaction("I")
    touched_by = torch.zeros(interactions.n_latents, dtype=torch.float64)
    for side in pairs.pairs.to(torch.int64).unbind(1):
        touched_by.index_add_(0, side, pairs.values.double())
    rows = []
    for group in groups:
        sums = {b: float(square[group][:, group].sum() / 2) for b, square in by_block.items()}
        total = sum(sums.values())
        # A pair inside stands with both of its members.
        touched = float(touched_by[prepared.latents[group]].sum()) - total
        share = total / touched if touched > 0 else 0.0
        parts = {b: value / total if total > 0 else 0.0 for b, value in sums.items()}
        rows.append((total / interactions.tokens, share, parts))
    return rows


def _among(prepared: PreparedCrosscoder, block: int | None = None) -> Float[Tensor, "R R"]:
    n_latents = prepared.evidence.interactions.n_latents
    return prepared.evidence.interaction("I", block).among(prepared.latents, n_latents)


def _by_neuron(
    prepared: PreparedCrosscoder, groups: list[list[int]]
) -> dict[int, Float[Tensor, "C N"]]:
    labels = torch.full((prepared.crosscoder.n_latents,), -1, dtype=torch.int64)
    for label, group in enumerate(groups):
        labels[prepared.latents[group]] = label
    sums: dict[int, Float[Tensor, "C N"]] = {}
    for batch in prepared.sample:
        seen = read_by(prepared.views, batch)
        for block, part in internal_interaction(seen, batch.latents, labels).items():
            sums[block] = sums[block] + part if block in sums else part
    return sums


def internal_interaction(
    views: AnyViews, latents: SparseLatents, labels: Int[Tensor, " H"]
) -> dict[int, Float[Tensor, "C N"]]:
    """By block: Σ over tokens of I_n(i,j) with i, the dominant one, and j in the same cluster.

    `labels` numbers each latent's cluster, -1 where it is in none. Summed over neurons this is I
    of the cluster's pairs, both directions, as `Interactions` counts it (claim 2; T3 for gated
    MLPs, with AND). Neurons of a mixture's experts stand one after another. float64.
    """
    labels = labels.to(latents.indices.device)
    count = int(labels.max()) + 1 if len(labels) else 0
    widest = max([1, *latents.offsets.diff().tolist()])
    sums = {}
    for block, (experts, widths) in experts_by_mlps(latents, views).items():
        whole = latents.values.new_zeros(count, sum(widths), dtype=torch.float64)
        parts = whole.split(list(widths), 1)
        for each in experts if count else ():
            n_tokens, step = len(each.tokens), max(1, _NUMBERS // (widths[each.expert] * widest))
            for start in range(0, n_tokens, step):
                part = each.view.rows(start, min(start + step, n_tokens))
                if len(part.latents.indices):
                    _add(parts[each.expert], part, labels)
        sums[block] = whole.cpu()
    return sums


def strongest_neurons(
    sums: Mapping[int, Float[Tensor, "C N"]], count: int
) -> list[list[NeuronShare]]:
    """The neurons that carry most of each cluster's internal interaction, largest first."""
    blocks = list(sums)
    names = [(block, neuron) for block in blocks for neuron in range(sums[block].shape[1])]
    strongest = []
    for row in torch.cat([sums[block] for block in blocks], 1):
        shares, index = (row / row.sum().clamp_min(1e-300)).topk(min(count, len(row)))
        ranked = zip(index.tolist(), shares.tolist(), strict=True)
        strongest.append(
            [NeuronShare(names[i][0], names[i][1], share) for i, share in ranked if share > 0]
        )
    return strongest


def _add(out: Float[Tensor, "C N"], seen: TokenView, labels: Tensor) -> None:
    view, latents = seen.dictionary, seen.latents
    cluster, token = labels[latents.indices], latents.token_index
    member = (cluster >= 0).nonzero()[:, 0]
    dominance = view.dominance(latents)
    owner = dominance.owner.to(torch.int64)
    leading = torch.where(owner >= 0, cluster[owner.clamp_min(0)], -1)[token]
    entry = torch.arange(len(cluster), device=cluster.device)[:, None]
    inside = (leading == cluster[:, None]) & (cluster[:, None] >= 0) & (owner[token] != entry)
    charged = inside * _charges(view, latents, dominance)
    if view.G_gate is not None:
        free = (owner[token] != entry) & (cluster[:, None] >= 0)
        charged += _both_paths(view, latents, free, token * len(out) + cluster)
    if seen.weight is not None:
        charged = charged * seen.weight[token, None]
    out.index_add_(0, cluster[member], charged[member])


def _both_paths(
    view: MLPDictionary,
    latents: SparseLatents,
    free: Bool[Tensor, "E N"],
    key: Int[Tensor, " E"],
) -> Float[Tensor, "E N"]:
    """AND of each entry on the gate with all others of its `key` on the linear path, L ‖o_n‖ g u,
    among those that are `free`: of a cluster, and not the dominant one."""
    assert view.G_gate is not None
    values = latents.values.double()[:, None]
    gate, linear = ((values * G[latents.indices]).abs() * free for G in (view.G_gate, view.G))
    row = key.unique(return_inverse=True)[1]
    whole = linear.new_zeros(len(linear), linear.shape[1]).index_add_(0, row, linear)
    slope = LIPSCHITZ[view.mlp.activation] * view.output_norms.double()
    return slope * gate * (whole[row] - linear)


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
