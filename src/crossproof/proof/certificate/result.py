"""What a certificate proves, as plain data: no PyTorch, and nothing that a verdict rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossproof.proof.certificate.reading import printable
from crossproof.result import Result
from crossproof.tables import DASH, Row, Table, at_least, at_most, cell, fixed

LOWER, UPPER = at_least(6), at_most(6)
"""Bounds are rounded in the direction in which they stay true."""


@dataclass(frozen=True)
class Subject:
    """What a certificate is about, in numbers; None is what its kind does not have."""

    inputs: int | None = None
    """Inputs that count alike."""
    distinct: int | None = None
    """Of a list: how many of them differ."""
    modulus: int | None = None
    """p, whose p² pairs are the inputs."""
    elements: int | None = None
    """Of a group, whose pairs are the inputs."""
    sets: int | None = None
    """Active sets of a continuum."""
    active: int | None = None
    """Features of a set."""
    boxes: int | None = None
    """Boxes that the sets are split into."""
    tokens: int | None = None
    """V, of which sequences are made."""
    length: int | None = None
    """Tokens of a sequence."""

    def __str__(self) -> str:
        if self.modulus is not None:
            return f"all {self.inputs:,} pairs modulo {self.modulus}"
        if self.elements is not None:
            return f"all {self.inputs:,} pairs of a group of {self.elements} elements"
        if self.tokens is not None:
            return f"all {self.inputs:,} sequences of {self.length} out of {self.tokens} tokens"
        if self.boxes is not None:
            return f"{self.sets:,} sets of {self.active} features in {self.boxes:,} boxes"
        return f"{self.inputs:,} inputs, {self.distinct:,} distinct"


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
    subject: Subject
    right: int
    """Inputs, or of a continuum boxes, on which the network is certified to be right."""
    chance: float
    """Accuracy of guessing evenly: 1 / V."""
    majority: float
    """Accuracy of always giving the likeliest label; of a continuum, an upper bound on it."""
    label_entropy: float | None
    """Nats: cross-entropy of always predicting the labels' frequencies; None for a continuum."""
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
    pinned: tuple[str, ...] = ()
    """Which of network and domain are the ones that the reader asked for."""
    balls: int = 0
    """Groups whose inequalities were derived again in ball arithmetic, out of `ball_groups`."""
    ball_groups: int = 0
    by_bound: dict[str, float] = field(default_factory=dict)
    """Of `boxes`: the mass that each bound proved."""

    @property
    def accuracy_vacuous(self) -> bool:
        """Whether always giving one label is as accurate as certified (docs/theory/margins.md)."""
        return self._accuracy_vacuous(self.accuracy)

    @property
    def cross_entropy_vacuous(self) -> bool:
        """Whether knowing only the labels' frequencies gives no more than certified."""
        return self._cross_entropy_vacuous(self.cross_entropy)

    @property
    def claim_vacuous(self) -> bool:
        """Whether the claim, true or not, says nothing about the network."""
        return self._accuracy_vacuous(self.claimed_accuracy) and self._cross_entropy_vacuous(
            self.claimed_cross_entropy
        )

    def _accuracy_vacuous(self, bound: float | None) -> bool:
        return bound is None or not bound > max(self.majority, self.chance)

    def _cross_entropy_vacuous(self, bound: float | None) -> bool:
        return bound is None or not bound < self._guessing

    @property
    def _guessing(self) -> float:
        uniform = math.log(self.classes)
        return uniform if self.label_entropy is None else min(uniform, self.label_entropy)

    @property
    def verdict(self) -> str:
        """What is to be said of the claim, in one sentence."""
        if not self.holds:
            return "The claim is NOT verified."
        if self.claim_vacuous:
            return "The claim is verified: true, and says nothing (guessing does as well)."
        return "The claim is verified."

    def tables(self) -> list[Table]:
        """The certified figures beside the claim and the cost beside brute force; what it is
        about."""
        columns = ("certified", "claimed", "note")
        title = f"Certificate of kind '{self.kind}'"
        return [Table(title, columns, tuple(self._figures())), self._about()]

    def _figures(self) -> list[Row]:
        brute = "uncountable domain: no brute force"
        if self.brute_force is not None:
            brute = f"brute force {self.brute_force:,}: {self.brute_force / self.operations:.2f}x"
        accuracy = f"{_vacuous(self.accuracy_vacuous)}: one label gives {_up(self.majority)}"
        entropy = f"{_vacuous(self.cross_entropy_vacuous)}: guessing gives {self._guessing:.4f}"
        rows = [
            ("accuracy, at least", self.accuracy, self.claimed_accuracy, accuracy, LOWER),
            (f"{self._groups} right, at least", self.right, None, f"of {self._total:,}", None),
            ("cross-entropy, at most", self.cross_entropy, self.claimed_cross_entropy,
             "no bound" if self.cross_entropy is None else entropy, UPPER),
            ("operations", self.operations, None, brute, None),
            ("seconds", self.seconds, None, "", fixed(3)),
            ("bytes", self.bytes, None, "network and domain included", None),
            *((f"mass by {k}, at least", v, None, "", LOWER) for k, v in self.by_bound.items()),
        ]  # fmt: skip
        if self.balls:
            what = "groups" if self.kind.startswith("attention") else self._groups
            share = f"{what} derived again, of {self.ball_groups:,}"
            rows.append(("ball arithmetic", self.balls, None, share, None))
        return [
            Row(label, (value, claimed, note), style=style or fixed(0))
            for label, value, claimed, note, style in rows
        ]

    @property
    def _groups(self) -> str:
        return "boxes" if self.kind == "boxes" else "inputs"

    @property
    def _total(self) -> int:
        return (self.subject.boxes if self.kind == "boxes" else self.subject.inputs) or 0

    def _about(self) -> Table:
        entropy = "of a continuum not known"
        if self.label_entropy is not None:
            entropy = f"{self.label_entropy:.4f} nats"
        labels = f"always the likeliest one gives {_up(self.majority)} at most; entropy {entropy}"
        rows: dict[str, tuple[str]] = {
            "inputs": (str(self.subject),),
            "classes": (f"{self.classes:,}: chance {_up(self.chance)}",),
            "labels": (labels,),
        }
        hashes = {"network": self.network, "domain": self.domain, "dictionary": self.dictionary}
        rows |= {name: (value,) for name, value in hashes.items() if value is not None}
        asked = " and ".join(f"the {name}" for name in self.pinned)
        others = [name for name in ("network", "domain") if name not in self.pinned]
        note = f"You asked for {asked}. " if asked else ""
        note += "".join(f"Is this your {name}? --{name} insists on it. " for name in others)
        title = "What it speaks about (hashes: SHA-256)"
        return Table.of(title, ("",), rows, note=note.strip())


def summary_tables(results: Mapping[str, VerificationResult]) -> list[Table]:
    """A line a certificate: what is certified, and what it is about."""
    certified, about = [], []
    for name, result in results.items():
        brute = result.brute_force
        vacuous = result.accuracy_vacuous and result.cross_entropy_vacuous
        claim = "says nothing" if result.claim_vacuous else "verified"
        values = (
            result.kind,
            f"{result.right:,} of {result._total:,}",
            at_least(4)(result.accuracy),
            cell(result.cross_entropy, UPPER).text,
            "yes" if vacuous else "no",
            claim if result.holds else "NOT verified",
        )
        certified.append(Row(printable(name), values))
        subject = (
            str(result.subject),
            _up(result.majority),
            _operations(result.operations),
            DASH if brute is None else f"{brute / result.operations:.2f}x",
            which(result.network, "network" in result.pinned),
        )
        about.append(Row(printable(name), subject))
    columns = ("kind", "right", "accuracy ≥", "CE ≤", "vacuous", "claim")  # 80 fit no more
    about_columns = ("domain", "one label", "ops", "brute force", "network")
    note = "right: inputs, or of a continuum boxes. one label: the accuracy of always giving it. "
    note += "--network insists on your network."
    return [
        Table("Certificates", columns, tuple(certified)),
        Table("What they speak about", about_columns, tuple(about), note=note),
    ]  # fmt: skip


def _up(share: float) -> str:
    return at_most(4)(share)


def which(hashed: str, pinned: bool) -> str:
    """The beginning of a hash, and whether it is the one that the reader asked for."""
    return hashed[:12] + (" (yours)" if pinned else " (any)")


def _operations(number: int) -> str:
    return f"{number:,}" if number < 100_000 else f"{number / 1e6:,.1f}M"


def _vacuous(vacuous: bool) -> str:
    return "VACUOUS" if vacuous else "not vacuous"
