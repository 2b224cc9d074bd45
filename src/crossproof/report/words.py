"""The summary in plain words: every sentence follows from the numbers, whichever way they fall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossproof.report.runs import Run, Value
from crossproof.report.table import Cell, cell, number


@dataclass(frozen=True)
class Card:
    """One headline figure of every run."""

    label: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Summary:
    """What the page says first."""

    headline: str
    compared: str
    sentences: tuple[str, ...]
    cards: tuple[Card, ...]


def summarise(results: Mapping[str, Any], runs: Sequence[Run]) -> Summary:
    """Headline, what was compared, what came out, and the headline figures."""
    first, others = runs[0], runs[1:]
    lines = [line for other in others for line in comparison(first, other)]
    lines = lines or list(alone(first))
    best = max(others, key=lambda run: _mean(run.phi("keep-largest")), default=None)
    line = headline_alone(first) if best is None else headline(first, best)
    return Summary(line, compared(results, runs), tuple(lines), tuple(_cards(runs)))


def headline(first: Run, other: Run) -> str:
    """The effect on Φ(keep-largest), named for what it is."""
    before, after = first.phi("keep-largest"), other.phi("keep-largest")
    if before is None or after is None:
        return headline_alone(other)
    if before.overlaps(after):
        return (
            f"No clear effect: one latent per neuron keeps {percent(after)} of the MLPs’ work in "
            f"“{other.name}” and {percent(before)} in “{first.name}”"
        )
    if after.mean > before.mean:
        return (
            f"One latent per neuron keeps {percent(after)} of the MLPs’ work, up from "
            f"{percent(before)}{_price(first.phi('none'), other.phi('none'))}"
        )
    return (
        f"It did not help: one latent per neuron keeps {percent(after)} of the MLPs’ work, down "
        f"from {percent(before)}"
    )


def headline_alone(run: Run) -> str:
    """The same for a single run, or for runs without fidelities."""
    keep, fvu = run.phi("keep-largest"), run.value("fvu")
    if keep is not None:
        return f"One latent per neuron keeps {percent(keep)} of the MLPs’ work"
    if fvu is not None:
        return f"“{run.name}” leaves {percent(fvu)} of the variance unexplained"
    return f"Figures of “{run.name}”"


def compared(results: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Which crosscoders, on which model, on what text."""
    names = "; ".join(f"“{run.name}” ({run.objective})" for run in runs)
    model = results.get("model", "a language model")
    seed = f" with seed {results['seed']}" if "seed" in results else ""
    opening = f"One crosscoder trained on the activations of “{model}”{seed}"
    if len(runs) > 1:
        opening = (
            f"{_count(len(runs))} crosscoders trained on the same activations of “{model}”{seed}"
        )
    data = runs[0].data
    measured = (
        f" Everything below was measured on {data['sequences']:,} sequences "
        f"({data['tokens']:,} tokens) of {_source(results)}."
        if "sequences" in data and "tokens" in data
        else ""
    )
    return f"{opening}: {names}.{measured}"


def comparison(first: Run, other: Run) -> Iterator[str]:
    """What `other` gained over `first`, and at what cost."""
    keep = _both(first.phi("keep-largest"), other.phi("keep-largest"))
    every = _both(first.phi("none"), other.phi("none"))
    if keep:
        yield (
            f"Keeping only the largest latent at each token and neuron, Φ is {shown(keep[1])} in "
            f"“{other.name}” against {shown(keep[0])} in “{first.name}”{_certainty(*keep)}."
        )
    if every:
        yield f"With all latents kept, {_change('Φ', *every)}: {_cost(*every)}."
    if keep and every:
        yield from _ratio(*keep, *every)
    if fvu := _both(first.value("fvu"), other.value("fvu")):
        at_mlp = _both(first.value("fvu_mlp_in"), other.value("fvu_mlp_in"))
        where = (
            f"; at the MLP inputs from {number(at_mlp[0].mean)} to {number(at_mlp[1].mean)}"
            if at_mlp
            else ""
        )
        yield f"{_change('The variance left unexplained (FVU)', *fvu)}{where}."


def alone(run: Run) -> Iterator[str]:
    """One run's figures, with nothing to compare them to."""
    keep, every, fvu = run.phi("keep-largest"), run.phi("none"), run.value("fvu")
    if keep is not None and every is not None:
        yield (
            f"Keeping only the largest latent at each token and neuron, Φ is {shown(keep)}; with "
            f"all latents kept it is {shown(every)}."
        )
    else:
        yield (
            "This crosscoder reads no MLP input, so no latent could be ablated inside an MLP and "
            "there is no Φ."
        )
    if fvu is not None:
        yield f"The fraction of variance left unexplained (FVU) is {shown(fvu)}."


def shown(value: Value) -> str:
    """A figure with its interval, as running text."""
    text = cell(value)
    return f"{text.text} {text.interval}".rstrip()


def percent(value: Value) -> str:
    """A fraction as a whole percentage."""
    return f"{value.mean * 100:.0f}%".replace("-", "−")


def _cards(runs: Sequence[Run]) -> Iterator[Card]:
    figures = (
        ("Φ, only the largest latent", "higher is better", [r.phi("keep-largest") for r in runs]),
        ("Φ, all latents", "higher is better", [r.phi("none") for r in runs]),
        ("FVU", "lower is better", [r.value("fvu") for r in runs]),
    )
    for label, note, values in figures:
        if any(values):
            yield Card(label, note, tuple(cell(value) for value in values))


def _ratio(before: Value, after: Value, all_before: Value, all_after: Value) -> Iterator[str]:
    if min(all_before.mean, all_after.mean) <= 0:
        return
    old, new = before.mean / all_before.mean, after.mean / all_after.mean
    text = f"One latent does {new:.0%} of what all do, against {old:.0%}"
    gained, lost = after.mean - before.mean, all_before.mean - all_after.mean
    if new > old and lost > max(gained, 0):
        text += ", but more because all do worse than because one does better"
    yield f"{text.replace('-', '−')}."


def _change(name: str, before: Value, after: Value) -> str:
    difference = number(after.mean - before.mean)
    sign = "" if difference.startswith("−") else "+"
    return f"{name} goes from {number(before.mean)} to {number(after.mean)} ({sign}{difference})"


def _price(before: Value | None, after: Value | None) -> str:
    """The headline's second half, where the full reconstruction clearly pays."""
    if before is None or after is None or after.mean >= before.mean or before.overlaps(after):
        return ""
    return f", but all latents together keep {percent(after)}, down from {percent(before)}"


def _cost(before: Value, after: Value) -> str:
    if after.mean >= before.mean:
        return "the full reconstruction does not pay for it"
    if before.overlaps(after):
        return "a cost within the intervals"
    return "that is what it costs the full reconstruction"


def _certainty(before: Value, after: Value) -> str:
    return "; the intervals overlap, so this may be chance" if before.overlaps(after) else ""


def _both(before: Value | None, after: Value | None) -> tuple[Value, Value] | None:
    return None if before is None or after is None else (before, after)


def _mean(value: Value | None) -> float:
    return float("-inf") if value is None else value.mean


def _source(results: Mapping[str, Any]) -> str:
    place = results.get("evaluated_on")
    if not isinstance(place, Mapping):
        return f"held-out text ({place})" if place else "held-out text"
    split = str(place.get("split", "held_out")).replace("_", "-")
    return f"{split} text (“{place['text']}”)" if "text" in place else f"{split} text"


def _count(number_of: int) -> str:
    words = ("No", "One", "Two", "Three", "Four", "Five", "Six")
    return words[number_of] if number_of < len(words) else str(number_of)
