"""`ClusterResult`: what `crossproof.cluster` returns, the content of clusters.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from crossproof.activations.corpus import TextSlice
from crossproof.clusters.judges import Explanation
from crossproof.clusters.settings import CHANCE, CONTROLS, ClusterSettings, Control
from crossproof.evaluation.contexts import Context
from crossproof.evaluation.measurement import InteractionSquare
from crossproof.evaluation.views_note import views_note
from crossproof.result import ABSENT, Result
from crossproof.tables import Estimate, Row, Style, Table, number, percent

SCHEMA = 1
LISTED = 8
"""Clusters in the tables, a crosscoder."""
LABELS = {
    "clusters": "{similarity}",
    "random": "– random clusters",
    "random, matched": "– random, same frequencies",
}
STYLES: tuple[Style, ...] = (number, percent, number, number)
JUDGE_WORDS = {"overlap": "word overlap", "embedding": "embedding model", "llm": "language model"}


@dataclass(frozen=True, kw_only=True)
class PooledAccuracy:
    """How often the judge was right, over all seeds; no figure where nothing was asked."""

    mean: float | None
    ci: tuple[float, float] | None
    """None where no seed has two clusters."""
    by_seed: tuple[float, ...]
    trials: int


@dataclass(frozen=True, kw_only=True)
class SizeAccuracy(PooledAccuracy):
    """The same about clusters of some sizes."""

    sizes: str


@dataclass(frozen=True, kw_only=True)
class Accuracy(PooledAccuracy):
    """The same about all clusters, and by their size."""

    clusters: int
    """That were asked about, over all seeds."""
    unanswered: int
    chance: float
    by_size: tuple[SizeAccuracy, ...]


@dataclass(frozen=True)
class Confusion:
    """Pieces of text by whether the latent is active and whether it was said to be."""

    tp: int
    fn: int
    fp: int
    tn: int


@dataclass(frozen=True)
class Detection:
    """How well explanations tell active from inactive text; None where no latent was answered, or
    there were no such pieces."""

    latents: int
    unanswered: int
    confusion: Confusion | None = None
    sensitivity: Estimate | None = None
    specificity: Estimate | None = None
    balanced: Estimate | None = None


@dataclass(frozen=True)
class ClusteringSummary:
    """Sizes, by seed, and stability of the clusters that one similarity makes."""

    clusters: tuple[int, ...]
    """Of two or more latents."""
    largest: tuple[int, ...]
    singletons: tuple[int, ...]
    converged: tuple[bool, ...]
    agreement_seeds: float | None
    """Adjusted Rand index between seeds."""
    agreement_halves: float | None
    """And between the halves of the measured text."""
    halves_missing: str | None = field(default=None, metadata=ABSENT)
    """Why there is none between the halves."""


@dataclass(frozen=True)
class Partner:
    """A latent that another interacts with, and their interaction I a token."""

    latent: int
    per_token: float


@dataclass(frozen=True)
class ClusterMember:
    """One latent of a cluster."""

    latent: int
    frequency: float
    explanation: Explanation
    contexts: tuple[Context, ...]
    partners: tuple[Partner, ...]


@dataclass(frozen=True)
class NeuronShare:
    """A neuron and its share of a cluster's internal interaction."""

    block: int
    neuron: int
    """Of a mixture of experts numbered through, expert after expert."""
    share: float


@dataclass(frozen=True)
class LatentCluster:
    """One cluster of two or more latents."""

    latents: tuple[int, ...]
    per_token: float
    """Interaction I inside, a token."""
    share: float
    """Of all I that its members take part in."""
    by_block: dict[int, float]
    """Share of the interaction inside."""
    neurons: tuple[NeuronShare, ...]
    members: tuple[ClusterMember, ...] = ()
    """A few of them, those with most interaction inside first; of the first clusters only."""

    @property
    def block(self) -> int:
        """The block with most of the interaction inside."""
        return max(self.by_block, key=lambda block: self.by_block[block])


@dataclass(frozen=True)
class ClusterSquare(InteractionSquare):
    """The same between members of the first clusters, who stand side by side."""

    sizes: tuple[int, ...] = ()
    """Of the clusters."""


@dataclass(frozen=True)
class ClusteredRun:
    """The clusters of one crosscoder."""

    latents: tuple[int, ...]
    """The chosen ones."""
    similarities: dict[str, ClusteringSummary]
    accuracy: dict[str, dict[str, dict[Control, Accuracy]]]
    """By judge, similarity and control."""
    detection: dict[str, Detection]
    """By judge."""
    clusters: tuple[LatentCluster, ...]
    """Of the first similarity and seed, most internal interaction first."""
    matrix: ClusterSquare
    left_out: dict[str, int] = field(default_factory=dict, metadata=ABSENT)
    """How many of the crosscoder's latents are not among the chosen ones, by reason."""
    undefined: dict[str, str] = field(default_factory=dict, metadata=ABSENT)
    """Why a similarity to compare with makes no clusters."""
    views: dict[str, str] = field(default_factory=dict, metadata=ABSENT)
    """By block, where its MLP reads the latents."""

    @property
    def note(self) -> str:
        """What was left out and where the latents are read, in a sentence for each."""
        parts = [f"{count:,} {reason}" for reason, count in self.left_out.items()]
        lines = [f"{len(self.latents):,} latents clustered"]
        lines += [f"left out: {', '.join(parts)}"] if parts else []
        lines += [f"not by {name}: {reason.rstrip('.')}" for name, reason in self.undefined.items()]
        return f"{'; '.join(lines)}. {views_note({'': self.views})}".rstrip()


@dataclass(frozen=True, repr=False)
class ClusterResult(Result):
    """Clusters of every crosscoder, with explanations, judgements and controls."""

    model: str
    model_hash: str
    settings: ClusterSettings
    llm: dict[str, str] | None
    """The language model's name and address, where one was asked."""
    measured_on: TextSlice | None
    """The text whose sums made the clusters; None of a crosscoder in memory."""
    runs: dict[str, ClusteredRun]
    spent: dict[str, int] | None
    """Tokens and requests, as the endpoint counts them."""
    skipped: dict[str, str] = field(default_factory=dict, metadata=ABSENT)
    """Why crosscoders of the run make no clusters."""
    schema: int = SCHEMA

    def tables(self) -> list[Table]:
        """Accuracy and detection by judge, crosscoders side by side; then their clusters."""
        clusters = [table for name, run in self.runs.items() for table in _clusters(name, run)]
        skipped = [Row(name, (reason,)) for name, reason in self.skipped.items()]
        missing = [Table("Not clustered", ("reason",), tuple(skipped))] if skipped else []
        return [*self.judgements(), *clusters, *missing]

    def judgements(self) -> list[Table]:
        """The tables with a column a crosscoder: accuracy and detection, by judge."""
        first = next(iter(self.runs.values()))
        accuracies = [self._accuracies(judge) for judge in first.accuracy]
        return [*accuracies, *(self._detections(judge) for judge in first.detection)]

    def _accuracies(self, judge: str) -> Table:
        similarities = dict.fromkeys(
            name for run in self.runs.values() for name in run.accuracy.get(judge, {})
        )
        rows = []
        for similarity in similarities:
            for control in CONTROLS:
                figures = [
                    run.accuracy.get(judge, {}).get(similarity, {}).get(control)
                    for run in self.runs.values()
                ]
                values = tuple(None if f is None else Estimate(f.mean, f.ci) for f in figures)
                rows.append(Row(LABELS[control].format(similarity=similarity), values))
        title = f"Right one of five, judge: {JUDGE_WORDS.get(judge, judge)}"
        note = f"Chance is {CHANCE:.2f}. 95% intervals over clusters."
        return Table(title, tuple(self.runs), tuple(rows), "grouped by", note)

    def _detections(self, judge: str) -> Table:
        every = [run.detection.get(judge, Detection(0, 0)) for run in self.runs.values()]
        counts = [detection.confusion for detection in every]
        active = [None if c is None else f"{c.tp} / {c.fn}" for c in counts]
        inactive = [None if c is None else f"{c.fp} / {c.tn}" for c in counts]
        rows = (
            Row("sensitivity", tuple(d.sensitivity for d in every)),
            Row("specificity", tuple(d.specificity for d in every)),
            Row("active: yes / no", tuple(active)),
            Row("inactive: yes / no", tuple(inactive)),
        )
        title = f"Explanations on other text, decided by {JUDGE_WORDS.get(judge, judge)}"
        return Table(title, tuple(self.runs), rows, note="95% intervals over latents.")


def _clusters(name: str, run: ClusteredRun) -> Iterator[Table]:
    """The clusters with most internal interaction, and what their members are about."""
    summary = next(iter(run.similarities.values()))
    rows, members = [], []
    for at, group in enumerate(run.clusters[:LISTED], 1):
        listed = " ".join(map(str, group.latents[:6])) + (" …" if len(group.latents) > 6 else "")
        block = f"{group.block} ({group.by_block[group.block]:.0%})"
        first = group.neurons[0] if group.neurons else None
        neuron = f"{first.block}.{first.neuron} ({first.share:.1%})" if first else ""
        values = (group.per_token, group.share, block, neuron)
        rows.append(Row(f"{at}: {listed}", values, style=STYLES))
        members += [
            Row(str(at), (str(member.latent), member.explanation.text))
            for member in group.members[:3]
        ]
    columns = "I a token", "of all theirs", "block", "neuron"
    stability = ("seeds", summary.agreement_seeds), ("halves of the text", summary.agreement_halves)
    told = [f"{value:.2f} across {what}" for what, value in stability if value is not None]
    note = f"Agreement (adjusted Rand index): {', '.join(told) or 'not measured'}. {run.note}"
    yield Table(f"{name}: {summary.clusters[0]} clusters", columns, tuple(rows), "latents", note)
    about = ("latent", "explanation")
    yield Table(f"{name}: what members are about", about, tuple(members), "cluster")
