"""What `measure` returns, and measure.json: how the latents of crosscoders interact on a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossproof.activations.corpus import TextSlice
from crossproof.errors import CrossproofError
from crossproof.evaluation.attention import LABELS, PARTS, AttentionScores
from crossproof.evaluation.contexts import Context
from crossproof.evaluation.naming import abbreviated, pair_name
from crossproof.evaluation.results import BlockEstimate
from crossproof.evaluation.views_note import views_note
from crossproof.result import ABSENT, Result
from crossproof.tables import Row, Table, Value, fixed, percent

SCHEMA = 2
"""1: I of gated MLPs was without AND."""
Totals = dict[str, BlockEstimate]
"""By form, I and Q with J (plain MLPs) or AND (gated ones), and `dominated`; `norm`, T7, of
dictionaries of the stream."""

FORMS = {
    "I": ("Interaction I", "every latent but the dominant one, by size; a token and block"),
    "J": ("Additive form J", "zero for latents that a neuron adds up"),
    "AND": ("Of it gate times value, AND", "latents meeting on the two paths of gated neurons"),
    "Q": ("Pair form Q", "every two latents, by the smaller contribution"),
    "norm": ("Norm's own, all", "denominator moved by all latents, which freezing it hides"),
    "dominated": ("Dominated neurons", "share with one latent above 90%"),
}
OF_TOKENS = ("norm", "dominated")
"""Those that pairs have no part in."""


@dataclass(frozen=True)
class OwnedShare:
    """A latent and the share of a block's (token, neuron) pairs at which it is dominant."""

    latent: int
    share: float


@dataclass(frozen=True)
class InteractionSquare:
    """I between the latents that interact most, per token, rows dominant, blocks summed."""

    latents: tuple[int, ...] = ()
    I: tuple[tuple[float, ...], ...] = ()  # noqa: E741  (the measure's name)


@dataclass(frozen=True)
class PairFigures:
    """One of the strongest pairs: its figures, and where it interacts."""

    latents: tuple[int, int]
    coactive: int
    """Tokens at which both are active."""
    active: tuple[int, int]
    """Tokens at which each is active."""
    per_token: float
    """I of the pair, both directions and all blocks, mean over all tokens."""
    per_coactive_token: dict[str, float]
    """Every form, mean over the tokens at which both are active."""
    second_difference: float
    """Σ_n ‖o_n‖ |δ²_n| among the token's other latents, mean over co-active tokens."""
    by_block: dict[str, float]
    """I by block, mean over co-active tokens."""
    contexts: tuple[Context, ...]
    latent_contexts: tuple[tuple[Context, ...], ...]
    """Of each of the two alone."""
    shapley_taylor: float | None = field(default=None, metadata=ABSENT)
    """Σ over blocks of ‖φ_hk‖ of the MLP's output, mean over the first contexts' peaks."""

    @property
    def block(self) -> str:
        """The block in which it interacts most."""
        return max(self.by_block, key=self.by_block.__getitem__)


@dataclass(frozen=True, repr=False)
class MeasurementResult(Result):
    """How the latents of one crosscoder interact (docs/results-format.md, measure.json)."""

    tokens: int
    pairs: int
    """Pairs of latents that were ever active together."""
    blocks: tuple[int, ...]
    gated: bool
    seconds: dict[str, float]
    totals: Totals
    """Means over tokens and blocks."""
    owners: dict[str, tuple[OwnedShare, ...]]
    """By block: the latents that are dominant most often."""
    matrix: InteractionSquare
    top_pairs: tuple[PairFigures, ...]
    """The strongest pairs by I summed over tokens."""
    attention: AttentionScores | None = field(default=None, metadata=ABSENT)
    views: dict[str, str] = field(default_factory=dict, metadata=ABSENT)
    """By block: where its MLP is read, at its input or in the stream before."""
    dictionaries: dict[str, int] = field(default_factory=dict, metadata=ABSENT)
    """Of several dictionaries side by side, where the latents of each begin."""

    def tables(self) -> Sequence[Table]:
        """Totals, the strongest pairs, and the parts of attention scores."""
        sums = totals_table({"mean": self}, {})
        return [sums, pairs_table("Strongest pairs", self), *self.attention_tables()]

    def attention_tables(self, title: str = "Attention scores") -> list[Table]:
        """The parts of attention scores; empty where they were not measured."""
        if self.attention is None or self.attention.missing is not None:
            return []
        return [attention_table(title, self.attention)]


@dataclass(frozen=True, repr=False)
class RunMeasurement(Result):
    """measure.json: crosscoders measured on the same text."""

    schema: int = SCHEMA
    model: str = ""
    model_hash: str = ""
    corpus: TextSlice | None = field(default=None, metadata=ABSENT)
    runs: dict[str, MeasurementResult] = field(default_factory=dict)
    ratios: dict[str, Totals] = field(default_factory=dict)
    """Every form over that of the first crosscoder; of `dominated` the difference."""

    def tables(self) -> Sequence[Table]:
        """Totals side by side, then each crosscoder's strongest pairs and attention scores."""
        tables = [totals_table(self.runs, self.ratios)]
        for name, result in self.runs.items():
            tables.append(pairs_table(f"{name}: strongest pairs", result))
        for name, result in self.runs.items():
            tables += result.attention_tables(f"{name}: attention scores")
        return tables

    @classmethod
    def check(cls, content: Mapping[str, Any]) -> None:
        """Raises CrossproofError for a newer schema, and an older one's figures of gated MLPs."""
        schema = content.get("schema", SCHEMA)
        if schema == 1 and any(run.get("gated") for run in content.get("runs", {}).values()):
            raise CrossproofError(
                "measure.json is of a version whose interaction I of gated MLPs left out AND, "
                "gate times value: run `crossproof measure` again."
            )
        if schema not in range(1, SCHEMA + 1):
            raise CrossproofError(
                f"measure.json has schema {schema}, and this version reads up to {SCHEMA}: use "
                f"the version of crossproof that wrote it."
            )


def totals_table(runs: Mapping[str, MeasurementResult], ratios: Mapping[str, Totals]) -> Table:
    """Means over tokens and blocks of every form, and ratios to the first crosscoder's."""
    columns = [*runs, *(f"{name} against {next(iter(runs))}" for name in ratios)]
    rows = [
        _totals(form, [run.totals for run in runs.values()], list(ratios.values()))
        for form in FORMS
        if any(form in run.totals for run in runs.values())
    ]
    tokens = [run.tokens for run in runs.values()]
    rows.append(Row("Tokens", (*tokens, *(None for _ in ratios))))
    note = "Means over blocks, 95% intervals over sequences."
    if ratios:
        note += " Against another: the ratio, and of dominated neurons the difference."
    note = f"{note} {views_note({name: run.views for name, run in runs.items()})}".rstrip()
    return Table("Interactions", tuple(columns), tuple(rows), note=note)


def _totals(form: str, totals: list[Totals], ratios: list[Totals]) -> Row:
    values = tuple(each.get(form) for each in (*totals, *ratios))
    label, note = FORMS[form]
    return Row(label, values, note, percent) if form == "dominated" else Row(label, values, note)


def pairs_table(title: str, result: MeasurementResult) -> Table:
    """The strongest pairs, their sums where both latents are active, and the block of most."""
    forms = [form for form in FORMS if form in result.totals and form not in OF_TOKENS]
    shapley = any(pair.shapley_taylor is not None for pair in result.top_pairs)
    columns = ["I a token", "both active", *forms, "2nd diff."]
    columns += ["φ", "block"] if shapley else ["block"]
    named = [latent for pair in result.top_pairs for latent in pair.latents]
    dictionaries, names = abbreviated(result.dictionaries, named)
    rows = []
    for pair in result.top_pairs:
        sums = [pair.per_coactive_token.get(form) for form in forms]
        values: list[Value] = [pair.per_token, pair.coactive, *sums, pair.second_difference]
        values += [pair.shapley_taylor, pair.block] if shapley else [pair.block]
        rows.append(Row(pair_name(pair.latents, dictionaries), tuple(values)))
    note = f"{', '.join(forms)} and second difference: mean over tokens with both active."
    if shapley:
        note += " φ: Shapley–Taylor index of the MLP’s output where the pair interacts most."
    note = f"{note} {names}".rstrip()
    return Table(title, tuple(columns), tuple(rows), corner="pair", note=note)


def attention_table(title: str, scores: AttentionScores) -> Table:
    """How much each part of the scores differs among the keys of a query, by block."""
    rows = []
    for at, block in enumerate(scores.blocks):
        squares = [[value * value for value in scores.rms[part][at]] for part in PARTS]
        sizes = tuple((sum(heads) / len(heads)) ** 0.5 for heads in squares)
        rows.append(Row(str(block), sizes, style=fixed(2)))
    note = "Root mean square over keys and heads, of what a softmax sees."
    columns = tuple(LABELS[part] for part in PARTS)
    return Table(title, columns, tuple(rows), corner="block", note=note)
