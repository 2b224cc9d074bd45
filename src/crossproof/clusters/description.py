"""Clusters as plain values, with all that tables and the report show of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.clusters.explain import Clue, Explanation
from crossproof.clusters.neurons import internal_interaction, strongest_neurons
from crossproof.clusters.partitions import Partition
from crossproof.clusters.prepare import ClusterMaterial
from crossproof.clusters.result import (
    ClusterMember,
    ExplanationText,
    InteractionSquare,
    LatentCluster,
    Partner,
)

SHOWN_CLUSTERS = 8
SHOWN_MEMBERS = 5
SHOWN_CONTEXTS = 2
PARTNERS = 3
NEURONS = 5
SQUARE = 32
"""Latents in the picture."""
NEURON_TOKENS = 20_000
"""Tokens of the text from which the neurons of clusters are computed."""


def describe(material: ClusterMaterial, partition: Partition) -> tuple[LatentCluster, ...]:
    """Every cluster of two or more, most internal interaction first; the first few in detail."""
    groups = partition.groups(least=2)
    inside = _inside(material, groups)
    neurons = strongest_neurons(_by_neuron(material, groups), NEURONS)
    order = sorted(range(len(groups)), key=lambda i: (-inside[i][0], i))
    whole = _among(material)
    clusters = []
    for rank, i in enumerate(order):
        latents = material.latents[groups[i]].tolist()
        central = torch.argsort(whole[groups[i]][:, groups[i]].sum(1), descending=True, stable=True)
        shown = [latents[m] for m in central[:SHOWN_MEMBERS]] if rank < SHOWN_CLUSTERS else []
        members = tuple(_member(material, latent) for latent in shown)
        clusters.append(LatentCluster(tuple(latents), *inside[i], tuple(neurons[i]), members))
    return tuple(clusters)


def interaction_square(
    material: ClusterMaterial, clusters: Sequence[LatentCluster]
) -> InteractionSquare:
    """I per token between members of the first clusters, who stand side by side."""
    chosen: list[int] = []
    sizes: list[int] = []
    for cluster in clusters:
        if len(chosen) + len(cluster.latents) <= SQUARE:
            chosen += cluster.latents
            sizes.append(len(cluster.latents))
    directed = material.evidence.interactions.matrix("I", normalise="mean")[chosen][:, chosen]
    return InteractionSquare(tuple(chosen), tuple(sizes), tuple(map(tuple, directed.tolist())))


def _member(material: ClusterMaterial, latent: int) -> ClusterMember:
    interactions = material.evidence.interactions
    return ClusterMember(
        latent,
        float(interactions.active[latent]) / interactions.tokens,
        _explained(material.texts.explanation("shown", latent)),
        tuple(material.texts.strongest("judge shown", latent)[:SHOWN_CONTEXTS]),
        _partners(material, latent),
    )


def _partners(material: ClusterMaterial, latent: int) -> tuple[Partner, ...]:
    tokens, whole = material.evidence.interactions.tokens, material.evidence.interaction("I")
    with_latent = (whole.pairs == latent).any(1)
    other = whole.pairs[with_latent].sum(1) - latent
    values = whole.values[with_latent]
    best = torch.argsort(values, descending=True, stable=True)[:PARTNERS]
    pairs = zip(other[best].tolist(), (values[best] / tokens).tolist(), strict=True)
    return tuple(Partner(h, value) for h, value in pairs if value > 0)


def _explained(explanation: Explanation) -> ExplanationText:
    """An explanation as plain values, with the shares of activation where they are known."""

    def shares(clues: tuple[Clue, ...]) -> dict[str, float]:
        return {clue.word: round(clue.share, 3) for clue in clues}

    by_position = shares(explanation.on), shares(explanation.after), shares(explanation.near)
    return ExplanationText(explanation.text, explanation.by, *by_position)


def _inside(
    material: ClusterMaterial, groups: list[list[int]]
) -> list[tuple[float, float, dict[int, float]]]:
    """Interaction I a token inside each cluster, its share of all that its members take part in,
    and what each block has of it."""
    interactions = material.evidence.interactions
    by_block = {block: _among(material, block) for block in interactions.blocks}
    pairs = material.evidence.interaction("I")
    touched_by = torch.zeros(interactions.n_latents, dtype=torch.float64)
    for side in pairs.pairs.to(torch.int64).unbind(1):
        touched_by.index_add_(0, side, pairs.values.double())
    rows = []
    for group in groups:
        sums = {b: float(square[group][:, group].sum() / 2) for b, square in by_block.items()}
        total = sum(sums.values())
        # A pair inside stands with both of its members.
        touched = float(touched_by[material.latents[group]].sum()) - total
        share = total / touched if touched > 0 else 0.0
        parts = {b: value / total if total > 0 else 0.0 for b, value in sums.items()}
        rows.append((total / interactions.tokens, share, parts))
    return rows


def _among(material: ClusterMaterial, block: int | None = None) -> Float[Tensor, "R R"]:
    n_latents = material.evidence.interactions.n_latents
    return material.evidence.interaction("I", block).among(material.latents, n_latents)


def _by_neuron(
    material: ClusterMaterial, groups: list[list[int]]
) -> dict[int, Float[Tensor, "C N"]]:
    labels = torch.full((material.crosscoder.n_latents,), -1, dtype=torch.int64)
    for label, group in enumerate(groups):
        labels[material.latents[group]] = label
    latents = material.texts.parts["score"].latents
    latents = latents.rows(0, min(latents.n_tokens, NEURON_TOKENS))
    return internal_interaction(material.views, latents, labels)
