"""What a certificate about listed contexts shows, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from crossproof.proof.certificate.format_contexts import ASSUMPTIONS
from crossproof.proof.certificate.headers import LARGEST_NUMBER
from crossproof.proof.certificate.reading import printable
from crossproof.proof.certificate.result import which
from crossproof.result import Result
from crossproof.tables import Row, Table, Value, at_least, at_most, number, percent

LOSS, SHARE = at_most(4), at_least(2, percent=True)
"""As many digits as 80 columns hold: a number that is broken over two lines reads as less."""


@dataclass(frozen=True)
class ContextBound:
    """What holds of one treatment at the listed contexts."""

    mlps: int
    """How many of the last MLPs read `keep` latents a neuron."""
    keep: int
    predictions: int
    kept: int
    """Predictions whose most likely token certainly is the model's."""
    claimed_kept: int
    loss_change: float
    """|mean loss - the model's|, nats, is at most this."""
    claimed_loss_change: float
    token_change: float
    """The mean of |loss - the model's| over predictions is at most this."""
    claimed_token_change: float

    @property
    def holds(self) -> bool:
        """Whether all that is claimed was reached."""
        return (
            self.kept >= self.claimed_kept
            and self.loss_change <= self.claimed_loss_change
            and self.token_change <= self.claimed_token_change
        )

    @property
    def at(self) -> tuple[int, int]:
        """`mlps` and `keep`."""
        return self.mlps, self.keep

    @property
    def label(self) -> str:
        """The treatment in words."""
        which = "last MLP" if self.mlps == 1 else f"last {self.mlps} MLPs"
        return f"{which}, keep {self.keep}"


@dataclass(frozen=True)
class MeasuredContexts:
    """The same treatment as the model ran it, in its own precision: for people, never checked."""

    mlps: int
    keep: int
    kept: float
    """Share of predictions."""
    loss_change: float
    """Signed."""


@dataclass(frozen=True)
class ContextsComparison:
    """What computing streams and latents again with the reader's model gave."""

    others: int
    """Positions where other latents are active than saved."""
    stream: float
    """How far an entry of a stream is from what is saved, at most, in units of a typical entry of
    the position: the median, or a thousandth of the largest where that is more."""
    activation: float
    """How far an activation is, at most, where the latents are the same."""


@dataclass(frozen=True, repr=False)
class ContextsResult(Result):
    """The verifier's own figures; `holds` says whether they reach what is claimed."""

    kind: str
    holds: bool
    bounds: tuple[ContextBound, ...]
    contexts: int
    length: int
    """Tokens of a context."""
    predictions: int
    constant: int
    """How many of the predictions are of the model's most frequent token, at most: what is kept by
    always giving that one."""
    vocabulary: int
    label_entropy: float
    """Nats: what always predicting the frequencies of the tokens to be predicted would lose."""
    model_loss: float
    model: str
    dictionary: str
    hashes: dict[str, str]
    pinned: tuple[str, ...] = ()
    operations: int = 0
    seconds: float = 0.0
    bytes: int = 0
    measured: tuple[MeasuredContexts, ...] = field(default=())
    """What the prover measured, where it is at hand."""
    recomputed: ContextsComparison | None = None
    """How streams and latents compare with those of the reader's model and dictionary, whose
    weights are the same; None: they were not compared."""

    def vacuous(self, bound: ContextBound) -> bool:
        """Whether nothing is claimed.

        No more predictions are kept than by always giving one token, and the loss is no better
        than that of who knows only how often each token is to be predicted.
        """
        guess = min(math.log(self.vocabulary), self.label_entropy) - self.model_loss
        change = min(bound.claimed_loss_change, bound.claimed_token_change)
        return bound.claimed_kept <= self.constant and change >= guess

    @property
    def claim_vacuous(self) -> bool:
        """Whether no statement says anything."""
        return all(map(self.vacuous, self.bounds))

    @property
    def verdict(self) -> str:
        """What is to be said of the claim, in one sentence."""
        if not self.holds:
            return "The claim about the listed contexts is NOT verified."
        empty = ": it holds, and says nothing" if self.claim_vacuous else ""
        return (
            f"The claim is verified{empty}, of the {self.contexts:,} listed contexts; it says "
            f"nothing about any other."
        )

    def tables(self) -> list[Table]:
        """Every treatment, and what the certificate is about and assumes."""
        rows = tuple(map(self._row, self.bounds))
        columns = ("kept ≥", "claimed", "measured", "|Δloss| ≤", "claimed", "measured",
                   "mean |Δ| ≤", "note")  # fmt: skip
        note = (
            f"Of {self.predictions:,} predictions in {self.contexts:,} listed contexts, against "
            f"the model itself; nats a token. measured: the prover's, unchecked."
        )
        title = "Certificate of kind 'contexts': the listed contexts and no others"
        return [Table(title, columns, rows, note=note), self._about()]

    def _row(self, bound: ContextBound) -> Row:
        same = ((m.kept, m.loss_change) for m in self.measured if (m.mlps, m.keep) == bound.at)
        kept, change = next(same, (None, None))
        shares = bound.kept / bound.predictions, bound.claimed_kept / bound.predictions
        claimed = bound.claimed_loss_change
        changes = bound.loss_change, claimed if claimed < LARGEST_NUMBER else None
        note = "" if bound.holds else "NOT verified"
        note = f"{note} VACUOUS".strip() if self.vacuous(bound) else note
        style = (SHARE, SHARE, percent, LOSS, LOSS, number, LOSS, number)
        return Row(
            bound.label, (*shares, kept, *changes, change, bound.token_change, note), style=style
        )

    def _about(self) -> Table:
        rows: dict[str, tuple[Value, ...]] = {
            "contexts": (
                f"{self.contexts:,} of {self.length:,} tokens, with {self.predictions:,} "
                f"predictions that count, of {self.contexts * (self.length - 1):,}",
            ),
            "classes": (f"{self.vocabulary:,}: a guess has {math.log(self.vocabulary):.4f} nats",),
            "one token everywhere": (f"keeps {self.constant:,} predictions at most",),
            "label entropy": (f"{self.label_entropy:.4f} nats",),
            "the model's loss": (f"{self.model_loss:.4f} nats a token",),
            "operations": (f"{self.operations:,} at most: more than running the model",),
            "streams, latents, weights": (self._again,),
        }
        for name in ("model", "dictionary"):
            yours = " (yours)" if name in self.pinned else f" (is it your {name}? give --{name})"
            rows[name] = (getattr(self, name) + yours,)
        rows |= {f"{name}, SHA-256": (value,) for name, value in self.hashes.items()}
        rows |= {f"assumed, {at}": (text,) for at, text in enumerate(ASSUMPTIONS, start=1)}
        return Table.of("What it speaks about", ("",), rows)

    @property
    def _again(self) -> str:
        again = self.recomputed
        if again is None:
            return "not compared with any model"
        others = f"; other latents at {again.others:,} positions" if again.others else ""
        return (
            f"compared with your model's: weights equal, streams within {again.stream:.1e} of a "
            f"typical entry, activations within {again.activation:.1e}{others}"
        )


def contexts_table(results: Mapping[str, ContextsResult]) -> Table:
    """Several certificates: a line a treatment."""
    rows = []
    for name, result in results.items():
        for bound in result.bounds:
            share = f"{bound.kept:,} of {bound.predictions:,}"
            verdict = "says nothing" if result.vacuous(bound) else "verified"
            verdict = verdict if bound.holds else "NOT verified"
            label = f"{printable(name)}: {bound.label}"
            about = which(result.model, "model" in result.pinned)
            rows.append(Row(label, (share, bound.loss_change, verdict, about), style=LOSS))
    columns = ("kept ≥", "|Δloss| ≤", "claim", "model")
    return Table("Certificates of listed contexts", columns, tuple(rows))
