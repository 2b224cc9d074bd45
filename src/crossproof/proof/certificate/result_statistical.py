"""What a statistical certificate shows, as plain data; every line of it says `statistical`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from crossproof.proof.certificate.format_statistical import ASSUMPTIONS
from crossproof.proof.certificate.reading import printable
from crossproof.proof.certificate.result import which
from crossproof.result import Result
from crossproof.tables import Row, Table, Value, at_most, fixed

UNITS = {
    "loss gap": "nats a token, mean over documents",
    "argmax changed": "share of a document's tokens, mean over documents",
    "gap beyond range": "share of documents",
}
"""What each quantity is measured in."""
BOUND = at_most(4)


@dataclass(frozen=True)
class StatisticalBound:
    """One quantity of one treatment: what holds of it with the certificate's confidence."""

    treatment: str
    quantity: str
    """A key of `UNITS`."""
    bound: float
    """The upper bound that the claim is compared with: by betting; exact where draws are 0 or 1."""
    claimed: float
    measured: float
    """On these documents."""
    bernstein: float | None = None
    """The empirical Bernstein bound at the same level."""
    hoeffding: float | None = None
    """Hoeffding's at the same level: what no knowledge of the variance gives."""
    clipped: int = 0
    """Documents whose gap was clipped to an end of the range."""

    @property
    def holds(self) -> bool:
        """Whether the bound reaches the claim."""
        return self.bound <= self.claimed


@dataclass(frozen=True)
class Recomputation:
    """What running the model again on a random share of the documents gave."""

    documents: int
    largest_loss_difference: float
    """Nats a token, of any document and treatment, the model itself included."""
    largest_changed_difference: float
    """Of a document's share of changed tokens."""


@dataclass(frozen=True, repr=False)
class StatisticalResult(Result):
    """The verifier's own bounds; `holds` says whether all of them reach what is claimed."""

    kind: str
    holds: bool
    delta: float
    """All bounds hold together with probability 1 - delta."""
    level: float
    """What each may be wrong with: delta over the number of statements (Bonferroni)."""
    low: float
    high: float
    """The range that gaps are clipped to, nats a token."""
    spliced: tuple[str, ...]
    """Hookpoints that the treatment `spliced` replaces, all at once."""
    mlps: tuple[int, ...]
    """Blocks whose MLPs the treatments `keep-m` change, all at once."""
    bounds: tuple[StatisticalBound, ...]
    documents: int
    tokens: int
    """Predictions that count, over all documents."""
    model_loss: float
    """The model's own, measured: nats a token, mean over documents."""
    vocabulary: int
    model: str
    dictionary: str
    text: str
    pinned: tuple[str, ...] = ()
    """Which of model, dictionary and text are the ones that the reader asked for."""
    operations: int = 0
    seconds: float = 0.0
    bytes: int = 0
    recomputed: Recomputation | None = None
    """None: that the numbers are the model's rests on the word of whoever saved them."""

    def vacuous(self, bound: StatisticalBound) -> bool:
        """Whether what is claimed says nothing.

        A confidence of a half or less; all documents; as many changed predictions as a uniform
        guess gives; a gap that the range itself allows, that may be beyond the range in half of
        the documents, or with which the model would be no better than a uniform guess.
        """
        if self.delta >= 0.5:
            return True
        if bound.quantity != "loss gap":
            changes = bound.quantity == "argmax changed"
            return bound.claimed >= 1 - (1 / self.vocabulary if changes else 0)
        guess = math.log(self.vocabulary) - self.model_loss
        clipped = any(
            other.claimed >= 0.5
            for other in self.bounds
            if (other.treatment, other.quantity) == (bound.treatment, "gap beyond range")
        )
        return clipped or bound.claimed >= min(self.high, guess)

    @property
    def claim_vacuous(self) -> bool:
        """Whether the claim, true or not, says nothing."""
        return all(map(self.vacuous, self.bounds))

    @property
    def verdict(self) -> str:
        """What is to be said of the claim, in one sentence."""
        if not self.holds:
            return "The statistical claim is NOT verified."
        if self.claim_vacuous:
            return "The statistical claim is verified: it holds, and says nothing."
        return (
            f"The statistical claim is verified: with confidence {_confidence(self.delta)} over "
            f"the draw of {self.documents:,} documents, under the assumptions above. It is no "
            f"proof about every input, or about any one."
        )

    def tables(self) -> list[Table]:
        """The bounds, what they are about, and what they assume."""
        return [self._bounds(), self._about(), self._assumed()]

    def _bounds(self) -> Table:
        columns = ("≤", "claimed ≤", "measured", "Bernstein", "Hoeffding", "note")
        rows = tuple(
            Row(f"statistical: {each.treatment}, {each.quantity}", self._values(each), style=BOUND)
            for each in self.bounds
        )
        return Table(
            f"STATISTICAL certificate: with confidence {_confidence(self.delta)}, no proof about "
            f"every input",
            columns,
            rows,
            note="≤ is by betting, of gaps beyond the range exact; Bernstein and Hoeffding at the "
            "same level stand beside it. "
            + "; ".join(f"{name}: {unit}" for name, unit in UNITS.items()) + ".",
        )  # fmt: skip

    def _values(self, each: StatisticalBound) -> tuple[Value, ...]:
        note = "" if each.holds else "NOT verified "
        note += "VACUOUS" if self.vacuous(each) else ""
        if each.quantity == "loss gap":
            ends = f"[{self.low:g}, {self.high:g}]"
            note = f"{note} {each.clipped:,} clipped to {ends}".strip()
        beside = each.bernstein, each.hoeffding
        return each.bound, each.claimed, each.measured, *beside, note

    def _about(self) -> Table:
        rows: dict[str, tuple[Value, ...]] = {
            "statistical: documents": (f"{self.documents:,}, with {self.tokens:,} predictions",),
            "statistical: confidence": (
                f"{_confidence(self.delta)} for all {len(self.bounds)} statements together "
                f"(each may fail with {at_most(6)(self.level)} at most)",
            ),
            "statistical: classes": (
                f"{self.vocabulary:,}: a uniform guess has {math.log(self.vocabulary):.4f} nats, "
                f"and changes all but one in {self.vocabulary:,} predictions",
            ),
            "statistical: label entropy": ("not known: the file holds no tokens",),
            "statistical: the model's loss": (f"{self.model_loss:.4f} nats a token, measured",),
            "statistical: operations": (f"{self.operations:,}: the bounds, without the model",),
            "statistical: computed again": (self._again,),
        }
        if self.spliced:
            rows["statistical: spliced"] = (", ".join(self.spliced),)
        if self.mlps:
            blocks = ", ".join(map(str, self.mlps))
            rows["statistical: keep-m"] = (f"m latents a neuron in the MLPs of blocks {blocks}",)
        for name in ("model", "dictionary", "text"):
            yours = " (yours)" if name in self.pinned else f" (is it your {name}? give --{name})"
            rows[f"statistical: {name}"] = (getattr(self, name) + yours,)
        return Table.of("What the statistical certificate speaks about", ("",), rows)

    @property
    def _again(self) -> str:
        again = self.recomputed
        if again is None:
            return "no: that the numbers are the model's was not checked"
        share = at_most(1)(100 * (1 - 0.05 ** (1 / again.documents)))
        return (
            f"{again.documents:,} of {self.documents:,} documents, drawn afresh: losses within "
            f"{again.largest_loss_difference:.1e}, shares within "
            f"{again.largest_changed_difference:.1e}; were more than {share}% of all "
            f"false, one had been among them with 95%"
        )

    def _assumed(self) -> Table:
        rows = tuple(Row(f"statistical: {at}", (a,)) for at, a in enumerate(ASSUMPTIONS, start=1))
        return Table("What the statistical certificate assumes", ("",), rows)


def statistical_table(results: Mapping[str, StatisticalResult]) -> Table:
    """Several certificates: a line a treatment, never among the lines of proofs."""
    rows = []
    for name, result in results.items():
        each = iter(result.bounds)
        for gap, changed, beyond in zip(each, each, each, strict=True):
            proved = gap.holds and changed.holds and beyond.holds
            empty = all(map(result.vacuous, (gap, changed, beyond)))
            claim = ("says nothing" if empty else "verified") if proved else "NOT verified"
            label = f"statistical: {printable(name)}, {gap.treatment}"
            values = (gap.bound, changed.bound, beyond.bound)
            about = (f"{result.documents:,}", _confidence(result.delta))
            model = which(result.model, "model" in result.pinned)
            rows.append(Row(label, (*values, *about, claim, model), style=BOUND))
    columns = ("loss gap ≤", "changed ≤", "beyond ≤", "documents", "confidence", "claim", "model")
    note = "With the confidence stated, over the draw of documents: no proofs about every input."
    return Table("STATISTICAL certificates", columns, tuple(rows), note=note)


def _confidence(delta: float) -> str:
    """1 - delta, rounded down: never all of it."""
    thousandths = min(math.floor((1 - delta) * 1e5), 99_999)
    return fixed(3)(thousandths / 1e3).rstrip("0").rstrip(".") + "%"
