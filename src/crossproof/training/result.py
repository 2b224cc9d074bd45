"""What `crossproof.train` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossproof.activations.massive import MassiveActivation, massive_table
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, nearest
from crossproof.result import ABSENT, Result
from crossproof.tables import Row, Table
from crossproof.training.trainer import StepReport


@dataclass(frozen=True)
class MetricsLine:
    """One logged step of one crosscoder: a line of metrics.jsonl."""

    step: int
    loss: float
    """The whole loss, divided by the number of scaled dimensions."""
    terms: dict[str, float]
    """Mean of each term without its strength: `reconstruction` and the objective's."""
    l0: float
    """Active latents a token."""
    dead: int
    """Latents that have not been active for long."""

    @classmethod
    def of(cls, step: int, report: StepReport) -> MetricsLine:
        """The figures of a step as plain numbers."""
        terms = {term: value.item() for term, value in report.terms.items()}
        return cls(step, report.loss.item(), terms, float(report.l0), int(report.dead))

    def figures(self) -> dict[str, float]:
        """All but the step, by name."""
        return {"loss": self.loss, **self.terms, "l0": self.l0, "dead": self.dead}


@dataclass(frozen=True)
class TrainedCrosscoder:
    """One crosscoder of a run."""

    objective: dict[str, float | str]
    """Strengths by name; none of the unpenalised one."""
    metrics: list[MetricsLine]
    """Every logged step; the last is the end of the training."""
    folder: Path | None = None
    """Where the finished crosscoder is; None where it was trained in memory."""


@dataclass(frozen=True, repr=False)
class TrainingResult(Result):
    """The crosscoders that a run trained on the same batches, and how their training went."""

    model: str
    """The language model's name."""
    steps: int
    runs: dict[str, TrainedCrosscoder]
    massive: tuple[MassiveActivation, ...] = field(default=(), metadata=ABSENT)
    """Massive activations in the first sequences of the text."""

    def crosscoder(self, name: str) -> Crosscoder:
        """A finished crosscoder: the one in memory, or that of its folder.

        Raises CrossproofError if there is none of that name, or it was never saved.
        """
        if name not in self.runs:
            raise CrossproofError(
                f"There is no crosscoder '{name}' here.{nearest(name, self.runs)}"
            )
        held: Mapping[str, Crosscoder] = vars(self).get("_held", {})
        if name in held:
            return held[name]
        folder = self.runs[name].folder
        if folder is None:
            raise CrossproofError(f"The crosscoder '{name}' was not saved: train with out=FOLDER.")
        return Crosscoder.from_pretrained(folder)

    def holding(self, crosscoders: Mapping[str, Crosscoder]) -> TrainingResult:
        """The same result with its crosscoders in memory beside it."""
        vars(self)["_held"] = dict(crosscoders)  # no field: it is no part of the document
        return self

    def tables(self) -> Sequence[Table]:
        """The last step of every crosscoder, and the text's massive activations."""
        last = {name: run.metrics[-1] for name, run in self.runs.items() if run.metrics}
        terms = list(dict.fromkeys(term for line in last.values() for term in line.terms))
        rows = [
            Row(name, (line.loss, *map(line.terms.get, terms), line.l0, line.dead))
            for name, line in last.items()
        ]
        columns = ("loss", *terms, "L0", "dead")
        title = f"Crosscoders of {self.model} after {self.steps:,} steps"
        tables = [Table(title, columns, tuple(rows), "crosscoder")]
        return [*tables, massive_table(self.massive)] if self.massive else tables
