"""Which similarity makes the most meaningful clusters: chosen on one half, reported on the other.

The latents are dealt out to two halves. Clusters of the first are judged on one text and choose an
interaction and a baseline; clusters of the second, judged on another text, are what is reported.
No latent and no judged sequence serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from crossproof.clusters import (
    BASELINES,
    CONTROLS,
    LEAST_SEQUENCES,
    Algorithm,
    Clustering,
    EncodedText,
    Judge,
    LatentTexts,
    Material,
    PreparedCrosscoder,
    accuracy,
    ask,
    cluster_latents,
    known,
)
from paper.clusters.paired import Answered, difference, pool

SimilarityFamily = Literal["interaction", "mixed", "baseline", "control"]
MATERIALS: tuple[Material, Material] = ("explanations", "contexts")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class HalvedSubject:
    """One crosscoder in two halves of its latents, each with its own text to be judged on."""

    choice: PreparedCrosscoder
    report: PreparedCrosscoder


def family(name: str) -> SimilarityFamily:
    """What a similarity is made of; only the first and third are ever chosen."""
    base = known(name)[0]
    if base in BASELINES:
        return "baseline"
    if base.endswith("-from-magnitudes"):
        return "control"
    return "mixed" if base.endswith("-phi") else "interaction"


def study(prepared: PreparedCrosscoder, chosen_on: dict[str, EncodedText]) -> HalvedSubject:
    """Latents in order of frequency go to the two halves by turns.

    The report is judged on the crosscoder's own text, the choice on `chosen_on`.
    """
    latents = prepared.latents
    for part in chosen_on.values():
        latents = latents[part.active_sequences()[latents] >= LEAST_SEQUENCES]
    active = prepared.evidence.interactions.active[latents]
    ranked = latents[torch.argsort(active, descending=True, stable=True)]
    first = replace(prepared, texts=LatentTexts(chosen_on), latents=ranked[0::2].sort().values)
    return HalvedSubject(first, replace(prepared, latents=ranked[1::2].sort().values))


@dataclass(frozen=True)
class ComparisonPlan:
    """What is compared, and how it is judged."""

    names: Sequence[str]
    judges: Sequence[Judge]
    """The last one chooses."""
    algorithm: Algorithm = "affinity"
    materials: Sequence[Material] = MATERIALS
    """The first one is what is chosen by."""
    seeds: Sequence[int] = SEEDS
    """Of clustering, questions and random controls."""
    per_cluster: int = 4
    """Questions about a cluster, at most."""


def compare(
    studies: Sequence[HalvedSubject], plan: ComparisonPlan, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Accuracies of both halves, what was chosen, and paired differences on the reported half.

    Studies are crosscoders of one kind (training seeds); their latents are pooled. The choice is
    the highest accuracy of an interaction, and of a baseline.
    """
    judges, names = plan.judges, plan.names
    materials = {"choice": plan.materials[:1], "report": plan.materials}
    halves = {
        name: _half([getattr(s, name) for s in studies], replace(plan, materials=own), say)
        for name, own in materials.items()
    }
    judge, material = judges[-1].name, plan.materials[0]
    shown = {name: _figures(pooled) for name, (_, pooled) in halves.items()}
    level = {n: shown["choice"][material][judge][n]["clusters"]["mean"] for n in names}
    chosen = {
        kind: max((n for n in names if family(n) == kind), key=lambda n: level[n] or 0.0)
        for kind in ("interaction", "baseline")
    }
    return {
        "latents": {h: sum(len(getattr(s, h).latents) for s in studies) for h in halves},
        "families": {name: family(name) for name in names},
        "chosen": chosen,
        "chosen_by": {"judge": judge, "material": material},
        "choice": shown["choice"],
        "report": shown["report"],
        "similarities": [
            {f.similarity: asdict(f.summary()) for f in found} for found in halves["report"][0]
        ],
        "differences": _differences(halves["report"][1], names, chosen),
    }


Pooled = dict[str, dict[str, dict[str, dict[str, Answered]]]]
"""Answers by material, judge, similarity and control."""


def _half(
    halves: Sequence[PreparedCrosscoder], plan: ComparisonPlan, say: Callable[[str], None]
) -> tuple[list[list[Clustering]], Pooled]:
    found: list[list[Clustering]] = []
    for half in halves:
        found.append(
            [
                cluster_latents(half, name, plan.algorithm, 0, plan.seeds, plan.per_cluster)
                for name in plan.names
            ]
        )
        say(f"{half.name}: {len(half.latents)} latents clustered")
    pooled: Pooled = {}
    for material in plan.materials:
        pooled[material] = {}
        for judge in plan.judges:
            every = [
                _answered(own, half, material, judge)
                for own, half in zip(found, halves, strict=True)
            ]
            pooled[material][judge.name] = {
                n: {c: pool([own[n][c] for own in every]) for c in CONTROLS} for n in plan.names
            }
            say(f"judged on {material}: {judge.name}")
    return found, pooled


def _answered(
    clusterings: Sequence[Clustering], half: PreparedCrosscoder, material: Material, judge: Judge
) -> dict[str, dict[str, Answered]]:
    labels = {c.similarity: c.partitions[0].labels.numpy() for c in clusterings}
    return {
        name: {control: Answered(labels[name], seeds) for control, seeds in by_control.items()}
        for name, by_control in ask(clusterings, half, material, judge).items()
    }


def _figures(pooled: Pooled) -> dict[str, Any]:
    return {
        material: {
            judge: {
                name: {control: asdict(accuracy(own.seeds)) for control, own in by_control.items()}
                for name, by_control in by_name.items()
            }
            for judge, by_name in by_judge.items()
        }
        for material, by_judge in pooled.items()
    }


def _differences(pooled: Pooled, names: Sequence[str], chosen: Mapping[str, str]) -> dict[str, Any]:
    """By material and judge: each similarity minus the chosen baseline, the chosen interaction
    minus each baseline, and each interaction minus what magnitudes predict of it."""
    pairs = [(name, chosen["baseline"]) for name in names if name != chosen["baseline"]]
    pairs += [(chosen["interaction"], n) for n in names if family(n) == "baseline"]
    for name in names:
        form = name.removesuffix("-normalised")
        if name != form and f"{form}-from-magnitudes" in names:
            pairs.append((name, f"{form}-from-magnitudes"))
    return {
        material: {
            judge: [
                {"one": one, "other": other}
                | difference(by_name[one]["clusters"], by_name[other]["clusters"])
                for one, other in dict.fromkeys(pairs)
            ]
            for judge, by_name in by_judge.items()
        }
        for material, by_judge in pooled.items()
    }
