"""The summary in plain words: every sentence follows from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crossproof.evaluation.results import RunEvaluation
from crossproof.report.runs import ShownRun
from crossproof.tables import Estimate, Row, cell, minus, number


@dataclass(frozen=True)
class Summary:
    """What the page says first."""

    headline: str
    compared: str
    sentences: tuple[str, ...]
    cards: tuple[Row, ...]
    """The headline figures, with a value a run."""


def summarise(results: RunEvaluation, runs: Sequence[ShownRun]) -> Summary:
    """Headline, what was compared, what came out, and the headline figures."""
    first, others = runs[0], runs[1:]
    if not _alike(runs):
        line = f"{_count(len(runs))} dictionaries of different hookpoints of “{results.model}”"
        each = tuple(f"“{run.name}”: {text}" for run in runs for text in alone(run))
        return Summary(line, compared(results, runs), each, tuple(_cards(runs)))
    lines = [line for other in others for line in comparison(first, other)]
    lines = lines or list(alone(first))
    best = max(others, key=lambda run: _mean(run.figures.fidelity("keep-largest")), default=None)
    line = headline_alone(first) if best is None else headline(first, best)
    return Summary(line, compared(results, runs), tuple(lines), tuple(_cards(runs)))


def headline(first: ShownRun, other: ShownRun) -> str:
    """The effect on Φ(keep-largest), named for what it is."""
    every = _whole(first, other) or (None, None)
    before, after = (run.figures.fidelity("keep-largest") for run in (first, other))
    if before is None or after is None:
        return headline_alone(other)
    if before.overlaps(after):
        return (
            f"No clear effect: one latent per neuron keeps {percent(after)} of the MLPs’ work in "
            f"“{other.name}” and {percent(before)} in “{first.name}”"
        )
    if after.value > before.value:
        return (
            f"One latent per neuron keeps {percent(after)} of the MLPs’ work, up from "
            f"{percent(before)}{_price(*every)}"
        )
    return (
        f"It did not help: one latent per neuron keeps {percent(after)} of the MLPs’ work, down "
        f"from {percent(before)}"
    )


def headline_alone(run: ShownRun) -> str:
    """The same for a single run, or for runs without fidelities."""
    keep, fvu = run.figures.fidelity("keep-largest"), run.figures.figure("fvu")
    if keep is not None:
        return f"One latent per neuron keeps {percent(keep)} of the MLPs’ work"
    if fvu is not None:
        return f"“{run.name}” leaves {percent(fvu)} of the variance unexplained"
    return f"Figures of “{run.name}”"


def compared(results: RunEvaluation, runs: Sequence[ShownRun]) -> str:
    """Which crosscoders, on which model, on what text."""
    names = "; ".join(f"“{run.name}” ({run.objective})" for run in runs)
    seed = "" if results.seed is None else f" with seed {results.seed}"
    count = _count(len(runs))
    opening = f"{count} crosscoders trained on" if runs[1:] else "One crosscoder trained on the"
    opening += " the same" if runs[1:] and _alike(runs) else ""
    opening = f"{opening} activations of “{results.model}”{seed}"
    figures = runs[0].figures
    measured = (
        f" Everything below was measured on {figures.sequences:,} sequences "
        f"({figures.tokens:,} tokens) of {_source(results)}."
        if figures.sequences and figures.tokens
        else ""
    )
    return f"{opening}: {names}.{measured}"


def comparison(first: ShownRun, other: ShownRun) -> Iterator[str]:
    """What `other` gained over `first`, and at what cost."""
    keep = _both(first.figures.fidelity("keep-largest"), other.figures.fidelity("keep-largest"))
    every = _whole(first, other)
    if keep:
        yield (
            f"Keeping only the largest latent at each token and neuron, Φ is {cell(keep[1])} in "
            f"“{other.name}” against {cell(keep[0])} in “{first.name}”{_certainty(*keep)}."
        )
    if every:
        yield f"With all latents kept{_beside(other)}, {_change('Φ', *every)}: {_cost(*every)}."
    if keep and every and other.figures.whole_mid == "exact_mid":
        yield from _ratio(*keep, *every)
    if fvu := _both(first.figures.figure("fvu"), other.figures.figure("fvu")):
        at_mlp = _both(first.figures.figure("fvu_mlp_in"), other.figures.figure("fvu_mlp_in"))
        where = (
            f"; at the MLP inputs from {number(at_mlp[0].value)} to {number(at_mlp[1].value)}"
            if at_mlp
            else ""
        )
        yield f"{_change('The variance left unexplained (FVU)', *fvu)}{where}."


def alone(run: ShownRun) -> Iterator[str]:
    """One run's figures, with nothing to compare them to."""
    figures = run.figures
    keep, every = figures.fidelity("keep-largest"), figures.fidelity("none", figures.whole_mid)
    if keep is not None and every is not None:
        yield (
            f"Keeping only the largest latent at each token and neuron, Φ is {cell(keep)}; with "
            f"all latents kept{_beside(run)} it is {cell(every)}."
        )
    else:
        silent = "No latent is active on this text." if figures.l0 == 0 else ""
        reason = figures.unread or silent or "No MLP was measured that reads this crosscoder."
        yield f"{reason} So no latent could be ablated inside an MLP, and there is no Φ."
    if (fvu := figures.figure("fvu")) is not None:
        yield f"The fraction of variance left unexplained (FVU) is {cell(fvu)}."


def _alike(runs: Sequence[ShownRun]) -> bool:
    """Whether all are of the same hookpoints, so that one's figures are better or worse."""
    return len({tuple(run.figures.by_hookpoint.get("fvu", ())) for run in runs}) == 1


def percent(value: Estimate) -> str:
    """A fraction as a whole percentage."""
    return minus(f"{value.value * 100:.0f}%")


def _cards(runs: Sequence[ShownRun]) -> Iterator[Row]:
    higher, every = "higher is better", [run.figures for run in runs]
    whole = {
        mid: tuple(f.fidelity("none", mid) if f.whole_mid == mid else None for f in every)
        for mid in ("exact_mid", "mean_rest")
    }
    rows = (
        Row("Φ, only the largest latent", tuple(f.fidelity("keep-largest") for f in every), higher),
        Row("Φ, all latents", whole["exact_mid"], higher),
        Row("Φ, all latents, mean rest", whole["mean_rest"], higher),
        Row("FVU", tuple(figures.figure("fvu") for figures in every), "lower is better"),
    )
    yield from (row for row in rows if any(row.values))


def _ratio(
    before: Estimate, after: Estimate, all_before: Estimate, all_after: Estimate
) -> Iterator[str]:
    if min(all_before.value, all_after.value) <= 0:
        return
    old, new = before.value / all_before.value, after.value / all_after.value
    text = f"One latent does {new:.0%} of what all do, against {old:.0%}"
    gained, lost = after.value - before.value, all_before.value - all_after.value
    if new > old and lost > max(gained, 0):
        text += ", but more because all do worse than because one does better"
    yield f"{minus(text)}."


def _change(name: str, before: Estimate, after: Estimate) -> str:
    difference = number(after.value - before.value)
    sign = "" if difference.startswith("−") else "+"
    return f"{name} goes from {number(before.value)} to {number(after.value)} ({sign}{difference})"


def _price(before: Estimate | None, after: Estimate | None) -> str:
    """The headline's second half, where the full reconstruction clearly pays."""
    if before is None or after is None or after.value >= before.value or before.overlaps(after):
        return ""
    return f", but all latents together keep {percent(after)}, down from {percent(before)}"


def _cost(before: Estimate, after: Estimate) -> str:
    if after.value >= before.value:
        return "the full reconstruction does not pay for it"
    if before.overlaps(after):
        return "a cost within the intervals"
    return "that is what it costs the full reconstruction"


def _certainty(before: Estimate, after: Estimate) -> str:
    return "; the intervals overlap, so this may be chance" if before.overlaps(after) else ""


def _whole(first: ShownRun, other: ShownRun) -> tuple[Estimate, Estimate] | None:
    """Φ of all latents in both, where it means the same."""
    mid = other.figures.whole_mid
    if first.figures.whole_mid != mid:
        return None
    return _both(first.figures.fidelity("none", mid), other.figures.fidelity("none", mid))


def _beside(run: ShownRun) -> str:
    return " and the rest of the stream at its mean" if run.figures.whole_mid == "mean_rest" else ""


def _both(before: Estimate | None, after: Estimate | None) -> tuple[Estimate, Estimate] | None:
    return None if before is None or after is None else (before, after)


def _mean(value: Estimate | None) -> float:
    return float("-inf") if value is None else value.value


def _source(results: RunEvaluation) -> str:
    text = results.evaluated_on
    if text is None:
        return "held-out text"
    return f"{text.split.replace('_', '-')} text (“{text.text}”)"


def _count(number_of: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six")
    return words[number_of] if number_of < len(words) else str(number_of)
