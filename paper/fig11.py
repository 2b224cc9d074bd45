"""Figure 11: can a judge tell from an explanation alone where its latent is active?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from crossproof.clusters import (
    DetectionSheet,
    EmbeddingJudge,
    OverlapJudge,
    PreparedCrosscoder,
    SentenceEmbedder,
    detection,
)
from paper.clustering import setup_words, subjects, variants
from paper.figure import Chart, Figure, Heat, Panel
from paper.lab import Lab
from paper.settings import Settings
from paper.words import shown, table

TITLE = "Figure 11: detection scores of explanations"
LATENTS, WINDOWS = 50, 10
FIGURES = ("sensitivity", "specificity", "balanced")


def run(settings: Settings) -> Figure:
    """Confusion matrices without and with the penalty, by two judges."""
    lab = Lab.open(settings)
    scorers = (OverlapJudge(), EmbeddingJudge(SentenceEmbedder()))
    numbers: dict[str, Any] = {"setup": lab.setup(), "how": setup_words(lab), "variants": {}}
    for name, config in variants(lab).items():
        every = [sheet for s in subjects(lab, config) for sheet in sheets(s)]
        numbers["variants"][name] = {
            s.name: asdict(detection(every, s.decide(every))) for s in scorers
        }
        settings.say(f"scored: {name}, {len(every)} explanations")
    panels = [
        panel(f"{name}, {scorer}", found)
        for name, by_scorer in numbers["variants"].items()
        for scorer, found in by_scorer.items()
    ]
    return Figure(numbers, {"main": Chart("Detection from explanations", panels)}, words(numbers))


def sheets(subject: PreparedCrosscoder) -> list[DetectionSheet]:
    """Latents spread over frequencies; explained, calibrated and scored on separate text."""
    return [subject.texts.sheet(h, WINDOWS, 0) for h in subject.spread(LATENTS)]


def panel(title: str, found: Mapping[str, Any]) -> Panel:
    """The confusion matrix as shares of each row."""
    c = found["confusion"]
    rows = [[c["tp"], c["fn"]], [c["fp"], c["tn"]]]
    shares = [[value / max(sum(row), 1) for value in row] for row in rows]
    heat = Heat(("active", "inactive"), ("said active", "said inactive"), shares, numbers=True)
    return Panel(title, heat=heat)


def words(numbers: Mapping[str, Any]) -> str:
    """Sensitivity, specificity and counts, side by side."""
    head = ["", "judge", "latents", *FIGURES, "tp", "fn", "fp", "tn"]
    rows = [
        [
            name,
            scorer,
            str(found["latents"]),
            *(shown(found[figure]) for figure in FIGURES),
            *(f"{value:,}" for value in found["confusion"].values()),
        ]
        for name, by_scorer in numbers["variants"].items()
        for scorer, found in by_scorer.items()
    ]
    return "\n\n".join(
        [
            f"{numbers['how']} Explanations are made from counts, without a language model. Of "
            f"each, {WINDOWS} active and {WINDOWS} checked-inactive pieces of other text; "
            f"intervals over latents.",
            table(head, rows),
        ]
    )
