"""The found clusters as plain values, with all that the report shows of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.clusters.explain import Explanation
from crossproof.clusters.judging import labels_of_latents
from crossproof.clusters.partition import Partition
from crossproof.clusters.places import internal_interaction, strongest_neurons
from crossproof.clusters.subject import Subject
from crossproof.clusters.texts import Texts
from crossproof.crosscoder.latents import SparseLatents

SHOWN_CLUSTERS = 8
SHOWN_MEMBERS = 5
SHOWN_CONTEXTS = 2
PARTNERS = 3
NEURONS = 5
SQUARE = 32
"""Latents in the picture."""
PLACE_TOKENS = 20_000
"""Tokens of the text from which the neurons of clusters are found."""


def describe(subject: Subject, found: Partition, texts: Texts) -> dict[str, Any]:
    """Every cluster of two or more, most internal interaction first; the first few in detail."""
    groups = found.groups(least=2)
    inside = _inside(subject, groups)
    places = strongest_neurons(_neurons(subject, found), NEURONS)
    order = sorted(range(len(groups)), key=lambda i: (-inside[i]["per_token"], i))
    latents = subject.latents.tolist()
    whole = _among(subject)
    rows = []
    for rank, i in enumerate(order):
        row = {"latents": [latents[m] for m in groups[i]], **inside[i]}
        row["neurons"] = [asdict(neuron) for neuron in places[i]]
        if rank < SHOWN_CLUSTERS:
            own = whole[groups[i]][:, groups[i]].sum(1)
            central = [groups[i][m] for m in torch.argsort(own, descending=True, stable=True)]
            row["members"] = [member(subject, texts, latents[m]) for m in central[:SHOWN_MEMBERS]]
        rows.append(row)
    return {"clusters": rows, "matrix": _square(subject, [row["latents"] for row in rows])}


def member(subject: Subject, texts: Texts, latent: int) -> dict[str, Any]:
    """One latent: frequency, explanation, contexts and strongest partners, chosen or not."""
    found = subject.evidence.interactions
    contexts = texts.strongest("judge shown", latent)[:SHOWN_CONTEXTS]
    return {
        "latent": latent,
        "frequency": float(found.active[latent]) / found.tokens,
        "explanation": explained(texts.explanation("shown", latent)),
        "contexts": [asdict(context) for context in contexts],
        "partners": _partners(subject, latent),
    }


def _partners(subject: Subject, latent: int) -> list[dict[str, Any]]:
    found, whole = subject.evidence.interactions, subject.evidence.interaction("I")
    own = (whole.pairs == latent).any(1)
    other = whole.pairs[own].sum(1) - latent
    best = torch.argsort(whole.values[own], descending=True, stable=True)[:PARTNERS]
    sums = (whole.values[own][best] / found.tokens).tolist()
    partners = zip(other[best].tolist(), sums, strict=True)
    return [{"latent": h, "per_token": value} for h, value in partners if value > 0]


def explained(explanation: Explanation) -> dict[str, Any]:
    """An explanation as plain values, shares of activation included where they are known."""
    clues = {
        name: {clue.word: round(clue.share, 3) for clue in getattr(explanation, name)}
        for name in ("on", "after", "near")
    }
    return {"text": explanation.text, "by": explanation.by} | {k: v for k, v in clues.items() if v}


def _inside(subject: Subject, groups: list[list[int]]) -> list[dict[str, Any]]:
    """Interaction I inside each cluster, its share of all that its members take part in, blocks."""
    found = subject.evidence.interactions
    by_block = {b: _among(subject, b) for b in found.blocks}
    pairs = subject.evidence.interaction("I")
    touched_by = torch.zeros(found.n_latents, dtype=torch.float64)
    for side in pairs.pairs.to(torch.int64).unbind(1):
        touched_by.index_add_(0, side, pairs.values.double())
    rows = []
    for group in groups:
        own = {b: float(m[group][:, group].sum() / 2) for b, m in by_block.items()}
        total = sum(own.values())
        # A pair inside stands with both of its members.
        touched = float(touched_by[subject.latents[group]].sum()) - total
        rows.append(
            {
                "per_token": total / found.tokens,
                "share": total / touched if touched > 0 else 0.0,
                "by_block": {str(b): v / total if total > 0 else 0.0 for b, v in own.items()},
            }
        )
    return rows


def _among(subject: Subject, block: int | None = None) -> Float[Tensor, "R R"]:
    n_latents = subject.evidence.interactions.n_latents
    return subject.evidence.interaction("I", block).among(subject.latents, n_latents)


def _neurons(subject: Subject, found: Partition) -> dict[int, Float[Tensor, "C N"]]:
    code: SparseLatents = subject.readings["score"].latents
    code = code.rows(0, min(code.n_tokens, PLACE_TOKENS))
    return internal_interaction(subject.views, code, labels_of_latents(subject, found))


def _square(subject: Subject, clusters: list[list[int]]) -> dict[str, Any]:
    """I per token between members of the first clusters, who stand side by side."""
    chosen: list[int] = []
    sizes: list[int] = []
    for members in clusters:
        if len(chosen) + len(members) <= SQUARE:
            chosen += members
            sizes.append(len(members))
    found = subject.evidence.interactions
    values = found.matrix("I", normalise="mean")[chosen][:, chosen]  # directed, for the picture
    return {"latents": chosen, "sizes": sizes, "I": values.tolist()}
