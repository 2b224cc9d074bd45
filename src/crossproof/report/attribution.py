"""What `crossproof attribute` found, as plain values for the template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossproof.proof.attribution.reading import best_chain, short_step, vacuous_from
from crossproof.report.runs import Run
from crossproof.report.stored import stored
from crossproof.tables import Cell, Estimate, cell, number

SHOWN = 8
"""Rows of each table of costs."""
REFERENCES = {"model": "Against the model", "all latents": "Against all latents"}
Found = Sequence[Mapping[str, Any] | None]
"""The entry of attribution.json of each run of the page."""


@dataclass(frozen=True)
class AttributionRow:
    """One figure of every run, as shown."""

    label: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class AttributionGroup:
    """Rows under a heading."""

    title: str
    rows: tuple[AttributionRow, ...]


@dataclass(frozen=True)
class CostRow:
    """A pair and, beside it, the neuron of the same rank; texts are empty where there is none."""

    latents: str
    pair_cost: str
    block: str
    neuron: str
    neuron_cost: str


@dataclass(frozen=True)
class Costs:
    """What one run's interactions are charged for."""

    whole: str
    rows: tuple[CostRow, ...]


@dataclass(frozen=True)
class AttributedRuns:
    """The section's tables and words; `groups` is empty if only the last block was attributed."""

    tokens: str
    limit: str
    unbounded: str
    """A sentence on why attention could not be bounded, if so."""
    groups: tuple[AttributionGroup, ...]
    breaks: tuple[str, ...]
    kept: tuple[str, ...]
    costs: dict[str, Costs]


def attributed(folder: Path, weights_hash: str) -> dict[str, Any] | None:
    """The content of attribution.json of a run, if it is about these weights."""
    return stored(folder / "attribution" / "attribution.json", weights_hash)


def attributed_runs(
    content: Mapping[str, Any] | None, runs: Sequence[Run]
) -> AttributedRuns | None:
    """The section's content, or None where nothing was attributed."""
    found = [(content or {"runs": {}})["runs"].get(run.name) for run in runs]
    present = [(run, f) for run, f in zip(runs, found, strict=True) if f is not None]
    if not present:
        return None
    first = present[0][1]
    chain = best_chain(figures for _, figures in present)
    chained = [(run, figures) for run, figures in present if "chains" in figures]
    return AttributedRuns(
        f"each of {first['tokens']:,} tokens" if "tokens" in first else "every token",
        _limit(first),
        first["attention_unbounded_because"] or "",
        () if chain is None else tuple(_groups(found, chain)),
        () if chain is None else tuple(_breaks(chained, chain)),
        tuple(_kept(present)),
        {run.name: _costs(figures["costs"]) for run, figures in present},
    )


def _limit(figures: Mapping[str, Any]) -> str:
    baselines = figures["baselines"]
    entropy = baselines["unigram_entropy"] <= baselines["log_classes"]
    why = (
        "the frequencies of the next tokens alone predict as well"
        if entropy
        else "guessing evenly among all tokens does as well"
    )
    return f"From {number(vacuous_from(figures))} nats on a bound is vacuous: {why}."


def _groups(found: Found, chain: str) -> Iterator[AttributionGroup]:
    """Losses and the ball's radius, of the chain that the figures show."""
    chains = [(f or {}).get("chains", {}).get(chain) for f in found]
    losses = [(f or {}).get("loss", {}) for f in found]
    rows = [
        AttributionRow("The model’s loss", "", tuple(_cell(loss.get("true")) for loss in losses)),
        AttributionRow("Claimed loss", "", tuple(_cell(loss.get("claimed")) for loss in losses)),
        AttributionRow(
            "Bound", f"chain: {chain}", tuple(_cell((c or {}).get("loss_bound")) for c in chains)
        ),
        AttributionRow("Verdict", "on the mean", tuple(_verdict(c) for c in chains)),
        AttributionRow("First vacuous step", "", tuple(_step(c) for c in chains)),
        AttributionRow(
            "Tokens with a vacuous bound",
            "",
            tuple(_share((c or {}).get("vacuous_tokens")) for c in chains),
        ),
    ]
    yield AttributionGroup("Cross-entropy in nats", tuple(rows))
    yield AttributionGroup("The ball around the decoded stream", tuple(_radii(found, chain)))


def _radii(found: Found, chain: str) -> Iterator[AttributionRow]:
    whole = [f if f is not None and "chains" in f else None for f in found]
    ends = [None if f is None else f["chains"][chain]["stages"][-1]["radius"] for f in whole]
    truths = [None if f is None else f["true_radius"][-1] for f in whole]
    moved = [None if f is None else _moving(f["chains"][chain]["stages"]) for f in whole]
    cells = tuple(cell(None) if v is None else Cell(f"{v:.1%}", "", Estimate(v)) for v in moved)
    yield AttributionRow("Proved radius at the end", "", tuple(_plain(v) for v in ends))
    yield AttributionRow(
        "Of it, the ball’s own growth", "how far layers could move within it", cells
    )
    yield AttributionRow("True distance at the end", "", tuple(_plain(v) for v in truths))


def _moving(stages: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the radius that propagating steps add."""
    whole = sum(float(stage["adds"]["mean"]) for stage in stages)
    moved = sum(float(s["adds"]["mean"]) for s in stages if s["kind"] == "propagates")
    return moved / whole if whole > 0 else None


def _cell(figure: Mapping[str, Any] | None) -> Cell:
    return cell(None if figure is None else Estimate(figure["mean"], tuple(figure["ci"])))


def _share(figure: Mapping[str, Any] | None) -> Cell:
    if figure is None:
        return cell(None)
    low, high = figure["ci"]
    value = Estimate(figure["mean"], (low, high))
    return Cell(f"{value.value:.1%}", f"[{100 * low:.1f}, {100 * high:.1f}]", value)


def _plain(value: float | None) -> Cell:
    return cell(None if value is None else Estimate(value))


def _verdict(chain: Mapping[str, Any] | None) -> Cell:
    if chain is None:
        return cell(None)
    return Cell("vacuous" if chain["vacuous"] else "not vacuous", "", None)


def _step(chain: Mapping[str, Any] | None) -> Cell:
    if chain is None:
        return cell(None)
    return Cell(_named(chain["mean_first_vacuous"] or "none"), "", None)


def _named(step: str) -> str:
    """`blocks.0 MLP moves` as `block 0, MLP moves`."""
    block, _, part = short_step(step).partition(" ")
    return f"block {block}, {part}" if block.isdecimal() else step


def _breaks(chained: Sequence[tuple[Run, Mapping[str, Any]]], chain: str) -> Iterator[str]:
    for run, figures in chained:
        yield _broken(run, figures, chain)
    if chain.endswith("measured"):
        yield (
            "This chain reads the model’s own attention outputs: what it says is true, and it is "
            "part of no compact proof."
        )


def _broken(run: Run, figures: Mapping[str, Any], chain: str) -> str:
    """Where one run's bound stops to say anything, and by how much that step exaggerates."""
    found, limit = figures["chains"][chain], number(vacuous_from(figures))
    bound, first = number(found["loss_bound"]["mean"]), found["mean_first_vacuous"]
    if first is None:
        return (
            f"“{run.name}”: the mean bound is {bound} nats, below {limit}: it says something. "
            f"It is vacuous at {found['vacuous_tokens']['mean']:.1%} of the tokens."
        )
    if first == "claimed loss":
        claimed = number(figures["loss"]["claimed"]["mean"])
        return (
            f"“{run.name}”: the claim itself is vacuous, at {claimed} nats, so no bound can help."
        )
    row = next(stage for stage in found["stages"] if stage["stage"] == first)
    return (
        f"“{run.name}”: the mean bound passes {limit} nats at “{_named(first)}” and ends at "
        f"{bound}. That step adds {number(row['adds']['mean'])} to the radius"
        f"{_restarted(figures['restarted'], row)}; {row['first_vacuous_here']:.1%} of the tokens "
        "are lost there."
    )


def _restarted(columns: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    part, block = row["part"], row["block"]
    if part not in columns or f"{part} true" not in columns:
        return ""
    alone, truth = (number(columns[key][block]["mean"]) for key in (part, f"{part} true"))
    return (
        f" ({alone} if the ball before it had the true radius; the output truly moves by {truth})"
    )


def _kept(present: Sequence[tuple[Run, Mapping[str, Any]]]) -> Iterator[str]:
    """The most that any variant certifies, a sentence a reference."""
    for reference, title in REFERENCES.items():
        found = [(run.name, figures["last_block"].get(reference)) for run, figures in present]
        texts = [_most(name, variants) for name, variants in found if variants]
        if texts:
            yield f"{title}, at most {'; '.join(texts)}."


def _most(name: str, variants: Mapping[str, Any]) -> str:
    variant = max(variants, key=lambda key: float(variants[key]["certified"]["mean"]))
    best = variants[variant]
    return (
        f"{best['certified']['mean']:.1%} of the predictions in “{name}” are certified, where "
        f"{best['unchanged']['mean']:.1%} truly stay ({variant}: {best['terms']:,.0f} pairs)"
    )


def _costs(costs: Mapping[str, Any]) -> Costs:
    pairs, neurons = costs["pairs"][:SHOWN], costs["neurons"][:SHOWN]
    count = max(len(pairs), len(neurons))
    rows = [
        CostRow(
            *(_pair(pairs[place]) if place < len(pairs) else ("", "", "")),
            *(_neuron(neurons[place]) if place < len(neurons) else ("", "")),
        )
        for place in range(count)
    ]
    whole = costs.get("per_token", 0.0)
    if not neurons or whole <= 0:
        return Costs("no interaction is charged", ())
    share = sum(row["per_token"] for row in neurons) / whole
    return Costs(
        f"{number(whole)} a token in all; the {len(neurons)} neurons below carry {share:.1%} of it",
        tuple(rows),
    )


def _pair(row: Mapping[str, Any]) -> tuple[str, str, str]:
    block = max(row["by_block"], key=row["by_block"].get)
    return ", ".join(map(str, row["latents"])), number(row["per_token"]), block


def _neuron(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['neuron']} in block {row['block']}", number(row["per_token"])
