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
from paper.clusters.subjects import setup_words, subjects, variants
from paper.drawing.charts import Chart, Heatmap, Panel
from paper.drawing.words import shown, table
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings

TITLE = "Figure 11: detection scores of explanations"
LATENTS, WINDOWS = 50, 10
FIGURES = ("sensitivity", "specificity", "balanced")


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Confusion matrices without and with the penalty, by two judges."""
    experiment = Experiment.open(settings)
    scorers = (OverlapJudge(), EmbeddingJudge(SentenceEmbedder()))
    numbers: dict[str, Any] = {
        "setup": experiment.setup(),
        "how": setup_words(experiment),
        "variants": {},
    }
    for name, config in variants(experiment).items():
        every = [sheet for s in subjects(experiment, config) for sheet in sheets(s)]
        numbers["variants"][name] = {
            s.name: asdict(detection(every, s.decide(every))) for s in scorers
        }
        settings.say(f"scored: {name}, {len(every)} explanations")
    return numbers


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """A panel a variant and judge."""
    panels = [
        panel(f"{name}, {scorer}", scores)
        for name, by_scorer in numbers["variants"].items()
        for scorer, scores in by_scorer.items()
    ]
    return {"main": Chart("Detection from explanations", panels)}


def sheets(subject: PreparedCrosscoder) -> list[DetectionSheet]:
    """Latents spread over frequencies; explained, calibrated and scored on separate text."""
    return [subject.texts.sheet(h, WINDOWS, 0) for h in subject.spread(LATENTS)]


def panel(title: str, scores: Mapping[str, Any]) -> Panel:
    """The confusion matrix as shares of each row."""
    c = scores["confusion"]
    rows = [[c["tp"], c["fn"]], [c["fp"], c["tn"]]]
    shares = [[value / max(sum(row), 1) for value in row] for row in rows]
    heat = Heatmap(("active", "inactive"), ("said active", "said inactive"), shares, numbers=True)
    return Panel(title, heat=heat)


def words(numbers: Mapping[str, Any]) -> str:
    """Sensitivity, specificity and counts, side by side."""
    head = ["", "judge", "latents", *FIGURES, "tp", "fn", "fp", "tn"]
    rows = [
        [
            name,
            scorer,
            str(scores["latents"]),
            *(shown(scores[figure]) for figure in FIGURES),
            *(f"{value:,}" for value in scores["confusion"].values()),
        ]
        for name, by_scorer in numbers["variants"].items()
        for scorer, scores in by_scorer.items()
    ]
    return "\n\n".join(
        [
            f"{numbers['how']} Explanations are made from counts, without a language model. Of "
            f"each, {WINDOWS} active and {WINDOWS} checked-inactive pieces of other text; "
            f"intervals over latents.",
            table(head, rows),
        ]
    )
