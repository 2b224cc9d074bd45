"""Tables of `crossproof attribute`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

KINDS = {
    "measured": "measured",
    "propagates": "bound on the ball",
    "code": "function of the code",
}


def attribution_tables(content: dict[str, Any]) -> Iterator[Table]:
    """Losses, the steps of each crosscoder's best chain, the last block, the costliest pairs."""
    runs = content["runs"]
    if all("chains" in figures for figures in runs.values()):
        yield _loss_table(runs)
        for name, figures in runs.items():
            yield _stage_table(name, _best(figures["chains"]), figures)
    yield _last_table(runs)
    for name, figures in runs.items():
        yield _cost_table(name, figures["costs"])


def _loss_table(runs: dict[str, Any]) -> Table:
    table = Table(title="Cross-entropy in nats, 95% intervals over sequences")
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    first = next(iter(runs.values()))
    baselines = first["baselines"]
    table.add_row("Model", *(_figure(run["loss"]["true"], "{:.3f}") for run in runs.values()))
    claimed = (_figure(run["loss"]["claimed"], "{:.3f}") for run in runs.values())
    table.add_row("Claimed: decode the last hookpoint", *claimed)
    for chain in first["chains"]:
        cells = []
        for run in runs.values():
            found = run["chains"][chain]
            word = "vacuous" if found["vacuous"] else "not vacuous"
            cells.append(f"{_figure(found['loss_bound'], '{:.2f}')}, {word}")
        table.add_row(f"Bound: {chain}", *cells)
    for chain in first["chains"]:
        cells = [run["chains"][chain]["mean_first_vacuous"] or "never" for run in runs.values()]
        table.add_row(f"First vacuous at: {chain}", *cells)
    for label, key in (("Next tokens' frequencies", "unigram_entropy"), ("log V", "log_classes")):
        table.add_row(label, *(f"{baselines[key]:.3f}" for _ in runs))
    return table


def _best(chains: dict[str, Any]) -> str:
    """The chain with the least bound; saturated ones, equal but for rounding, go to the first."""
    return min(chains, key=lambda name: round(_mean(chains[name]["loss_bound"]), 2))


def _stage_table(name: str, chain: str, run: dict[str, Any]) -> Table:
    """A chain's steps; "restarted" is a step that begins at the true distance instead."""
    table = Table(title=f"{name}: {chain}", box=SIMPLE)
    table.add_column("step")
    for heading in ("adds", "restarted", "radius", "loss bound", "tokens lost here"):
        table.add_column(heading, justify="right")
    table.add_column("which is")
    for row in run["chains"][chain]["stages"]:
        if _mean(row["adds"]) < 1e-9:
            continue
        table.add_row(
            row["stage"],
            _figure(row["adds"], "{:.2f}"),
            _restarted(run["restarted"], row),
            f"{row['radius']:.2f}",
            f"{_mean(row['loss_bound']):.2f}",
            f"{row['first_vacuous_here']:.1%}",
            KINDS[row["kind"]],
        )
    return table


def _last_table(runs: dict[str, Any]) -> Table:
    table = Table(title="Last block, exact resid_mid: top-1 predictions that stay, 95% intervals")
    table.add_column("last MLP becomes")
    for name in runs:
        for heading in ("certified", "ceiling", "true", "median bound", "terms"):
            table.add_column(f"{name}\n{heading}", justify="right")
    first = next(iter(runs.values()))["last_block"]
    for reference, variants in first.items():
        table.add_section()
        for variant in variants:
            cells = []
            for run in runs.values():
                figures = run["last_block"][reference][variant]
                cells += [
                    _figure(figures["certified"], "{:.1%}"),
                    f"{_mean(figures['ceiling']):.1%}" if figures["ceiling"] else "",
                    f"{_mean(figures['unchanged']):.1%}",
                    f"{figures['median_bound']:.2f}",
                    f"{figures['terms']:,.0f}",
                ]
            table.add_row(f"{variant}, against {reference}", *cells)
    return table


def _cost_table(name: str, costs: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: pairs and neurons that cost the proof most", box=SIMPLE)
    for heading in ("pair", "cost a token", "block", "its neurons", "neuron", "cost a token"):
        table.add_column(heading, justify="right")
    neurons = costs["neurons"]
    for place, pair in enumerate(costs["pairs"]):
        block = max(pair["by_block"], key=pair["by_block"].get)
        inside = ", ".join(f"{n['block']}.{n['neuron']}" for n in pair["neurons"][:3])
        other = ("", "")
        if place < len(neurons):
            found = neurons[place]
            other = f"{found['block']}.{found['neuron']}", f"{found['per_token']:.3f}"
        pairs = " ".join(map(str, pair["latents"]))
        table.add_row(pairs, f"{pair['per_token']:.3f}", block, inside, *other)
    return table


def _restarted(columns: dict[str, Any], row: dict[str, Any]) -> str:
    return f"{_mean(columns[row['part']][row['block']]):.2f}" if row["part"] in columns else ""


def _mean(figure: dict[str, Any]) -> float:
    return float(figure["mean"])


def _figure(figure: dict[str, Any], style: str) -> str:
    low, high = figure["ci"]
    return f"{style.format(figure['mean'])} [{style.format(low)}, {style.format(high)}]"
