"""Tables of `crossproof measure`."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

LABELS = {
    "I": "Interaction I, a token and block",
    "J": "Additive form J",
    "AND": "Gate times value, AND",
    "Q": "Pair form Q",
    "led": "Neurons with one latent above 90%",
}


def comparison_table(content: dict[str, Any]) -> Table:
    """Totals of every crosscoder with intervals, and their ratio to the first."""
    runs = content["runs"]
    table = Table(title="Means over blocks, 95% intervals over sequences")
    table.add_column("")
    for name in runs:
        table.add_column(name, justify="right")
    for name in content["ratios"]:
        table.add_column(f"{name} against {next(iter(runs))}", justify="right")
    for key, label in LABELS.items():
        if not any(key in figures["totals"] for figures in runs.values()):
            continue
        style = "{:.1%}" if key == "led" else "{:.1f}"
        cells = [_figure(figures["totals"].get(key), style) for figures in runs.values()]
        compared = "{:+.1%}" if key == "led" else "{:.3f} x"
        cells += [_figure(ratio.get(key), compared) for ratio in content["ratios"].values()]
        table.add_row(label, *cells)
    tokens = [f"{figures['tokens']:,}" for figures in runs.values()]
    table.add_row("Tokens", *tokens, *("" for _ in content["ratios"]))
    return table


def pairs_table(name: str, figures: dict[str, Any]) -> Group:
    """The strongest pairs, their sums at the tokens where both are active, and where that is."""
    forms = [form for form in ("I", "J", "AND", "Q") if form in figures["totals"]]
    table = Table(title=f"{name}: strongest pairs", box=SIMPLE)
    for heading in ("pair", "I a token", "both active", *forms, "2nd diff.", "block"):
        table.add_column(heading, justify="left" if heading == "pair" else "right", no_wrap=True)
    lines = []
    for row in figures["top_pairs"]:
        pair = " ".join(map(str, row["latents"]))
        block = max(row["by_block"], key=row["by_block"].get)
        sums = [_short(row["per_coactive_token"][form]) for form in forms]
        whole = f"{row['per_token']:.2f}", f"{row['coactive']:,}"
        table.add_row(pair, *whole, *sums, _short(row["second_difference"]), block)
        lines.append(Text(f"  {pair:10s} ", overflow="fold").append(_excerpt(row["contexts"])))
    meaning = f"{', '.join(forms)} and second difference: mean over tokens with both active."
    where = "Where each interacts most, at the word in bold:"
    return Group(table, Text(meaning, style="dim"), Text(where, style="dim"), *lines)


PARTS = {
    "total": "score",
    "query": "query latents",
    "key": "key latents",
    "query_key": "query × key latents",
    "residual": "residual",
}


def attention_table(name: str, figures: dict[str, Any]) -> Table | Text:
    """How much each part of the scores differs among the keys of a query, by block."""
    if "missing" in figures:
        return Text(f"{name}, attention not measured: {figures['missing']}", style="yellow")
    table = Table(title=f"{name}: attention scores by part, root mean square over keys", box=SIMPLE)
    table.add_column("block")
    for label in PARTS.values():
        table.add_column(label, justify="right")
    for place, block in enumerate(figures["blocks"]):
        squares = {part: [v * v for v in figures["rms"][part][place]] for part in PARTS}
        sizes = [(sum(heads) / len(heads)) ** 0.5 for heads in squares.values()]
        table.add_row(str(block), *(f"{size:.2f}" for size in sizes))
    return table


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _excerpt(contexts: list[dict[str, Any]], before: int = 8, after: int = 3) -> Text:
    """The strongest context around its peak, which is bold."""
    text = Text()
    if not contexts:
        return text
    tokens, peak = contexts[0]["tokens"], contexts[0]["peak"]
    for place in range(max(peak - before, 0), min(peak + after + 1, len(tokens))):
        style = "bold" if place == peak else ""
        text.append(tokens[place].replace("\n", "↵"), style=style)
    return text


def _figure(entry: dict[str, Any] | None, style: str) -> str:
    if entry is None:
        return "-"
    low, high = entry["ci"]
    return f"{style.format(entry['mean'])} [{style.format(low)}, {style.format(high)}]"
