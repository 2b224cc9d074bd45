"""Figure 12: explanations of latents, good and bad, chosen by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossproof.clusters import EmbeddingJudge, PreparedCrosscoder, SentenceEmbedder, marked
from paper.clusters.subjects import setup_words, subjects, variants
from paper.drawing.charts import Chart, Panel, Series
from paper.drawing.words import table
from paper.figures.fig11 import WINDOWS
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings

TITLE = "Figure 12: explanations of latents"
SHOWN = 10


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Latents evenly spaced in frequency, of the first training seed."""
    experiment = Experiment.open(settings)
    scorer = EmbeddingJudge(SentenceEmbedder())
    numbers: dict[str, Any] = {
        "setup": experiment.setup(),
        "how": setup_words(experiment),
        "variants": {},
    }
    for name, config in variants(experiment).items():
        numbers["variants"][name] = rows(subjects(experiment, config)[0], scorer)
    return numbers


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """Pieces told right against the latent's frequency."""
    series = [_points(name, lines) for name, lines in numbers["variants"].items()]
    x_label = "share of tokens at which it is active"
    one = Panel("", x_label, "right", series, x_log=True, y_range=(0, 1))
    return {"main": Chart("Pieces of text told right from an explanation", [one], columns=1)}


def rows(subject: PreparedCrosscoder, scorer: EmbeddingJudge) -> list[dict[str, Any]]:
    """Explanation, strongest context on other text, and share of pieces told right."""
    texts = subject.texts
    interactions = subject.evidence.interactions
    latents = subject.spread(SHOWN)
    sheets = [texts.sheet(h, WINDOWS, 0) for h in latents]
    lines = []
    for latent, sheet, decided in zip(latents, sheets, scorer.decide(sheets), strict=True):
        hits = [d == a for d, a in zip(decided or (), sheet.active, strict=False)]
        lines.append(
            {
                "latent": latent,
                "frequency": float(interactions.active[latent]) / interactions.tokens,
                "explanation": sheet.explanation.text,
                "context": marked(texts.strongest("judge shown", latent)[0]),
                "right": sum(hits) / max(len(hits), 1),
                "pieces": len(hits),
            }
        )
    return sorted(lines, key=lambda line: -float(str(line["frequency"])))


def _points(name: str, lines: list[dict[str, Any]]) -> Series:
    right = [row["right"] for row in lines]
    return Series(name, [row["frequency"] for row in lines], right, kind="points")


def words(numbers: Mapping[str, Any]) -> str:
    """A table a variant."""
    parts = [
        f"{numbers['how']} Latents of the first training seed, evenly spaced by frequency among "
        f"those that qualify; explanations from counts; the context is the strongest on text that "
        f"the explanation was not made from; “right” is the share of active and inactive pieces of "
        f"other text that the embedding model tells from the explanation."
    ]
    for name, latents in numbers["variants"].items():
        lines = [
            [
                str(row["latent"]),
                f"{row['frequency']:.2%}",
                row["explanation"],
                row["context"],
                f"{row['right']:.2f}",
            ]
            for row in latents
        ]
        head = ["latent", "active", "explanation", "strongest context", "right"]
        parts += [f"**{name}**", table(head, lines)]
    return "\n\n".join(parts)
