"""What an audit finds: every suspect text by every detector, and the first ones token by token."""

from __future__ import annotations

from dataclasses import dataclass, field

from crossproof.auditing.config import KINDS, AuditSettings, DetectorKind
from crossproof.evaluation.views_note import views_note
from crossproof.result import ABSENT, Result
from crossproof.tables import Row, Table, count, fixed, significant

SCHEMA = 1
LISTED = 20
"""Texts that the table of the most anomalous ones holds."""


@dataclass(frozen=True, kw_only=True)
class AuditedWith(AuditSettings):
    """The settings, and where texts and crosscoder came from."""

    trusted: str
    suspect: str
    crosscoder: str


@dataclass(frozen=True)
class TrustedTexts:
    """How many trusted texts there were, how many lost their ends, and what each part was for."""

    texts: int
    cut: int
    train: int
    fit: int
    calibrate: int


@dataclass(frozen=True)
class SuspectTexts:
    """How many suspect texts there were, and how many lost their ends to the context."""

    texts: int
    cut: int


@dataclass(frozen=True)
class DetectorSummary(DetectorKind):
    """A detector, and how many suspect texts it flags at its level of chance."""

    level: float
    flagged: int


@dataclass(frozen=True)
class RankedText:
    """A suspect text: its beginning, and by detector its score and the chance of it."""

    place: int
    """Its index among the suspect texts."""
    text: str
    chance: dict[str, float]
    """How often a trusted text scores at least as high."""
    score: dict[str, float]


@dataclass(frozen=True)
class ScoredTokens:
    """A text's tokens, each with its I, reconstruction error and loss."""

    place: int
    tokens: list[str]
    values: dict[str, list[float]]


@dataclass(frozen=True)
class ColouredTexts:
    """The first texts token by token, and what is usual of trusted tokens."""

    median: dict[str, float]
    high: dict[str, float]
    """The 99th percentile."""
    texts: list[ScoredTokens]


@dataclass(frozen=True, repr=False)
class AuditResult(Result):
    """The content of audit.json; `texts` are ordered by the ranking detector."""

    model: str
    model_hash: str
    settings: AuditedWith
    trusted: TrustedTexts
    suspect: SuspectTexts
    detectors: dict[str, DetectorSummary]
    texts: list[RankedText]
    shown: ColouredTexts
    views: dict[str, str] = field(default_factory=dict, metadata=ABSENT)
    """By block, where its MLP reads the crosscoder's latents."""
    schema: int = SCHEMA

    def tables(self) -> tuple[Table, Table]:
        """The most anomalous texts, and how many texts each detector flags."""
        return self.ranked_table(), self.detectors_table()

    def ranked_table(self) -> Table:
        """The most anomalous texts by the ranking detector."""
        name = self.settings.detector
        style = (fixed(3), significant(4), count)
        rows = tuple(
            Row(str(t.place + 1), (t.chance[name], t.score[name], t.text), style=style)
            for t in self.texts[:LISTED]
        )
        return Table(
            f"Most anomalous by “{name}”",
            ("chance", "score", "begins"),
            rows,
            corner="text",
            note="The chance is how often a trusted text scores at least as high.",
        )

    def detectors_table(self) -> Table:
        """How many suspect texts each detector flags."""
        level = next(iter(self.detectors.values())).level
        chance = level * self.suspect.texts
        rows = tuple(
            Row(name, (KINDS[entry.kind], entry.about, entry.flagged))
            for name, entry in self.detectors.items()
        )
        return Table(
            f"Flagged of {self.suspect.texts} suspect texts (by chance about {chance:.1f})",
            ("looks at", "about", "flagged"),
            rows,
            corner="detector",
            note=views_note({"": self.views}),
        )
