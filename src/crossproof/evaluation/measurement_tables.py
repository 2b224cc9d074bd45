"""The rows that show measurements, the same on a terminal, on a page and in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from crossproof.tables import Row, Table, Value, fixed, percent

if TYPE_CHECKING:
    from crossproof.evaluation.attention import AttentionScores
    from crossproof.evaluation.measurement import MeasurementResult, Totals

FORMS = {
    "I": ("Interaction I", "every latent but the dominant one, by size; a token and block"),
    "J": ("Additive form J", "zero for latents that a neuron adds up"),
    "AND": ("Gate times value, AND", "latents meeting on the two paths of gated neurons"),
    "Q": ("Pair form Q", "every two latents, by the smaller contribution"),
    "dominated": ("Dominated neurons", "share with one latent above 90%"),
}
SCORE_PARTS = {
    "total": "score",
    "query": "query latents",
    "key": "key latents",
    "query_key": "query × key latents",
    "residual": "residual",
}


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
    return Table("Interactions", tuple(columns), tuple(rows), note=note)


def _totals(form: str, totals: list[Totals], ratios: list[Totals]) -> Row:
    values = tuple(each.get(form) for each in (*totals, *ratios))
    label, note = FORMS[form]
    return Row(label, values, note, percent) if form == "dominated" else Row(label, values, note)


def pairs_table(title: str, result: MeasurementResult) -> Table:
    """The strongest pairs, their sums where both latents are active, and the block of most."""
    forms = [form for form in FORMS if form in result.totals and form != "dominated"]
    shapley = any(pair.shapley_taylor is not None for pair in result.top_pairs)
    columns = ["I a token", "both active", *forms, "2nd diff."]
    columns += ["φ", "block"] if shapley else ["block"]
    rows = []
    for pair in result.top_pairs:
        sums = [pair.per_coactive_token.get(form) for form in forms]
        values: list[Value] = [pair.per_token, pair.coactive, *sums, pair.second_difference]
        values += [pair.shapley_taylor, pair.block] if shapley else [pair.block]
        rows.append(Row("\u00a0".join(map(str, pair.latents)), tuple(values)))  # never broken
    note = f"{', '.join(forms)} and second difference: mean over tokens with both active."
    if shapley:
        note += " φ: Shapley–Taylor index of the MLP’s output where the pair interacts most."
    return Table(title, tuple(columns), tuple(rows), corner="pair", note=note)


def attention_table(title: str, scores: AttentionScores) -> Table:
    """How much each part of the scores differs among the keys of a query, by block."""
    rows = []
    for at, block in enumerate(scores.blocks):
        squares = [[value * value for value in scores.rms[part][at]] for part in SCORE_PARTS]
        sizes = tuple((sum(heads) / len(heads)) ** 0.5 for heads in squares)
        rows.append(Row(str(block), sizes, style=fixed(2)))
    note = "Root mean square over keys and heads, of what a softmax sees."
    return Table(title, tuple(SCORE_PARTS.values()), tuple(rows), corner="block", note=note)
