"""What a certificate proves, as plain data: no PyTorch, and nothing that a verdict rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossproof.result import Result
from crossproof.tables import DASH, Row, Table, at_least, at_most, cell, fixed


@dataclass(frozen=True, repr=False)
class VerificationResult(Result):
    """The verifier's own figures; `holds` says whether they reach the certificate's claim."""

    kind: str
    holds: bool
    accuracy: float
    """Certified: the network's accuracy on the domain is at least this."""
    cross_entropy: float | None
    """Certified: the network's mean cross-entropy (nats) is at most this; None without bound."""
    claimed_accuracy: float | None
    claimed_cross_entropy: float | None
    chance: float
    """Accuracy of always giving the likeliest label (of any label, where that is not known)."""
    classes: int
    operations: int
    """Arithmetic operations of this verification; a multiply-add is two."""
    brute_force: int | None
    """Operations of running the network on every input; None where there are uncountably many."""
    seconds: float
    bytes: int
    """Size of the certificate, the network and the domain included."""
    network: str
    """SHA-256, like the next two."""
    domain: str
    dictionary: str | None
    balls: int = 0
    """Groups whose inequality was derived again in ball arithmetic."""
    by_bound: dict[str, float] = field(default_factory=dict)
    """Of `boxes`: the mass that each bound proved."""

    @property
    def accuracy_vacuous(self) -> bool:
        """Whether the certified accuracy says no more than guessing."""
        return self.accuracy <= self.chance

    @property
    def cross_entropy_vacuous(self) -> bool:
        """Whether the certified cross-entropy says no more than a uniform guess."""
        return self.cross_entropy is None or not self.cross_entropy < math.log(self.classes)

    def tables(self) -> list[Table]:
        """The certified figures beside the claim and the cost beside brute force; the hashes."""
        bounds = at_least(6), at_most(6)
        uniform = f"{_vacuous(self.cross_entropy_vacuous)}: log V is {math.log(self.classes):.4f}"
        brute = "uncountable domain: no brute force"
        if self.brute_force is not None:
            times = self.brute_force / self.operations
            brute = f"brute force {self.brute_force:,}: {times:.2f}x"
        rows = [
            Row(
                "accuracy, at least",
                (self.accuracy, self.claimed_accuracy),
                f"{_vacuous(self.accuracy_vacuous)}: chance is {self.chance:.4f}",
                bounds[0],
            ),
            Row(
                "cross-entropy, at most",
                (self.cross_entropy, self.claimed_cross_entropy),
                "no bound" if self.cross_entropy is None else uniform,
                bounds[1],
            ),
            Row("operations", (self.operations, None), brute),
            Row("seconds", (self.seconds, None), "", fixed(3)),
            Row("bytes", (self.bytes, None), "network and domain included"),
            *(Row(f"mass by {k}", (v, None), "", bounds[0]) for k, v in self.by_bound.items()),
        ]
        if self.balls:
            rows.append(Row("ball arithmetic", (self.balls, None), "groups derived again"))
        columns = ("certified", "claimed", "note")
        shown = tuple(Row(row.label, (*row.values, row.note), style=row.style) for row in rows)
        hashes = {"network": self.network, "domain": self.domain, "dictionary": self.dictionary}
        named = {name: (value,) for name, value in hashes.items() if value is not None}
        return [
            Table(f"Certificate of kind '{self.kind}'", columns, shown),
            Table.of("What it speaks about", ("SHA-256",), named),
        ]


def summary_table(results: Mapping[str, VerificationResult]) -> Table:
    """A line a certificate."""
    rows = []
    for name, result in results.items():
        brute = result.brute_force
        values = (
            result.kind,
            result.accuracy,
            cell(result.cross_entropy, at_most(6)).text,
            f"{result.operations / 1e6:.1f}M",
            DASH if brute is None else f"{brute / result.operations:.2f}x",
            "verified" if result.holds else "NOT verified",
        )
        rows.append(Row(name, values, style=at_least(4)))
    columns = ("kind", "accuracy ≥", "CE ≤", "ops", "brute force", "claim")
    return Table("Certificates", columns, tuple(rows))


def _vacuous(vacuous: bool) -> str:
    return "VACUOUS" if vacuous else "not vacuous"
