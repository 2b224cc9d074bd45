"""Figure 12: explanations of latents, good and bad, chosen by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossproof.clusters import EmbeddingJudge, PreparedCrosscoder, SentenceEmbedder, marked
from paper.clustering import setup_words, subjects, variants
from paper.fig11 import WINDOWS
from paper.figure import Chart, Figure, Panel, Series
from paper.lab import Lab
from paper.settings import Settings
from paper.words import table

TITLE = "Figure 12: explanations of latents"
SHOWN = 10


def run(settings: Settings) -> Figure:
    """Latents evenly spaced in frequency, of the first training seed."""
    lab = Lab.open(settings)
    scorer = EmbeddingJudge(SentenceEmbedder())
    numbers: dict[str, Any] = {"setup": lab.setup(), "how": setup_words(lab), "variants": {}}
    for name, config in variants(lab).items():
        numbers["variants"][name] = rows(subjects(lab, config)[0], scorer)
    series = [_points(name, found) for name, found in numbers["variants"].items()]
    x_label = "share of tokens at which it is active"
    one = Panel("", x_label, "right", series, x_log=True, y_range=(0, 1))
    chart = Chart("Pieces of text told right from an explanation", [one], columns=1)
    return Figure(numbers, {"main": chart}, words(numbers))


def rows(subject: PreparedCrosscoder, scorer: EmbeddingJudge) -> list[dict[str, Any]]:
    """Explanation, strongest context on other text, and share of pieces told right."""
    texts = subject.texts
    found = subject.evidence.interactions
    latents = subject.spread(SHOWN)
    sheets = [texts.sheet(h, WINDOWS, 0) for h in latents]
    lines = []
    for latent, sheet, decided in zip(latents, sheets, scorer.decide(sheets), strict=True):
        hits = [d == a for d, a in zip(decided or (), sheet.active, strict=False)]
        lines.append(
            {
                "latent": latent,
                "frequency": float(found.active[latent]) / found.tokens,
                "explanation": sheet.explanation.text,
                "context": marked(texts.strongest("judge shown", latent)[0]),
                "right": sum(hits) / max(len(hits), 1),
                "pieces": len(hits),
            }
        )
    return sorted(lines, key=lambda line: -float(str(line["frequency"])))


def _points(name: str, found: list[dict[str, Any]]) -> Series:
    right = [row["right"] for row in found]
    return Series(name, [row["frequency"] for row in found], right, kind="points")


def words(numbers: Mapping[str, Any]) -> str:
    """A table a variant."""
    parts = [
        f"{numbers['how']} Latents of the first training seed, evenly spaced by frequency among "
        f"those that qualify; explanations from counts; the context is the strongest on text that "
        f"the explanation was not made from; “right” is the share of active and inactive pieces of "
        f"other text that the embedding model tells from the explanation."
    ]
    for name, found in numbers["variants"].items():
        lines = [
            [
                str(row["latent"]),
                f"{row['frequency']:.2%}",
                row["explanation"].replace("|", "\\|"),
                row["context"].replace("|", "\\|"),
                f"{row['right']:.2f}",
            ]
            for row in found
        ]
        head = ["latent", "active", "explanation", "strongest context", "right"]
        parts += [f"**{name}**", table(head, lines)]
    return "\n\n".join(parts)
