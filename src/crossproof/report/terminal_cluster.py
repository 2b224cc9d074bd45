"""Tables of `crossproof cluster`."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

LISTED = 8
CONTROLS = (("clusters", "its clusters"), ("random", "random"), ("random, matched", "matched"))


def clusters_table(name: str, figures: dict[str, Any]) -> Group:
    """The clusters with most internal interaction, and what their members are about."""
    summary = next(iter(figures["similarities"].values()))
    table = Table(title=f"{name}: {summary['clusters'][0]} clusters", box=SIMPLE)
    table.add_column("latents")
    for heading in ("I a token", "of all theirs", "block", "neuron"):
        table.add_column(heading, justify="right", no_wrap=True)
    lines = []
    for row in figures["clusters"][:LISTED]:
        latents = " ".join(map(str, row["latents"][:6])) + (" …" if len(row["latents"]) > 6 else "")
        block = max(row["by_block"], key=row["by_block"].get)
        first = row["neurons"][0] if row["neurons"] else None
        neuron = f"{first['block']}.{first['neuron']} {first['share']:.1%}" if first else "-"
        inside = f"{row['per_token']:.2f}", f"{row['share']:.1%}"
        table.add_row(latents, *inside, f"{block} {row['by_block'][block]:.0%}", neuron)
        for member in row.get("members", ())[:3]:
            text = Text(f"  {member['latent']:>6} ", overflow="fold")
            lines.append(text.append(member["explanation"]["text"]))
        lines.append(Text(""))
    stable = f"Agreement (adjusted Rand index): {_agreement(summary)}"
    return Group(table, Text(stable, style="dim"), Text("Members, in order:", style="dim"), *lines)


def accuracy_table(name: str, figures: dict[str, Any]) -> Table:
    """Accuracy in the odd-one-in task: every judge and similarity, next to random clusters."""
    title = f"{name}: right one of five (chance 0.20), 95% intervals over clusters"
    table = Table(title=title, box=SIMPLE, padding=0, pad_edge=False)
    table.add_column("grouped by", min_width=24)
    for _, heading in CONTROLS:
        table.add_column(heading, justify="right", no_wrap=True, min_width=15)
    for judge, by_similarity in figures["accuracy"].items():
        table.add_section()
        table.add_row(Text(f"judge: {judge}", style="bold"), "", "", "")
        for similarity, by_control in by_similarity.items():
            cells = [_figure(by_control[control]) for control, _ in CONTROLS]
            table.add_row(f"  {similarity}", *cells)
    return table


def detection_table(content: dict[str, Any]) -> Table:
    """How well explanations tell active from inactive text; crosscoders side by side."""
    title = "Explanations on other text, 95% intervals over latents"
    table = Table(title=title, box=SIMPLE, padding=0, pad_edge=False)
    runs = content["runs"]
    table.add_column("", min_width=24)
    for name in runs:
        table.add_column(name, justify="right", no_wrap=True, min_width=15)
    for scorer in next(iter(runs.values()))["detection"]:
        found = [figures["detection"][scorer] for figures in runs.values()]
        table.add_section()
        table.add_row(Text(f"decided by {scorer}", style="bold"), *("" for _ in found))
        for key in ("sensitivity", "specificity"):
            table.add_row(f"  {key}", *(_figure(f.get(key, {"mean": None})) for f in found))
        for label, yes, no in (("active", "tp", "fn"), ("inactive", "fp", "tn")):
            cells = [_counts(f.get("confusion"), yes, no) for f in found]
            table.add_row(f"  {label}: yes / no", *cells)
    return table


def _counts(confusion: dict[str, int] | None, yes: str, no: str) -> str:
    return "-" if confusion is None else f"{confusion[yes]} / {confusion[no]}"


def _agreement(summary: dict[str, Any]) -> str:
    named = ("seeds", "agreement_seeds"), ("halves of the text", "agreement_halves")
    parts = [f"{summary[key]:.2f} across {what}" for what, key in named if summary[key] is not None]
    return ", ".join(parts) or "not measured"


def _figure(entry: dict[str, Any]) -> str:
    if entry["mean"] is None:
        return "-"
    if entry["ci"] is None:
        return f"{entry['mean']:.2f}"
    mean, low, high = (f"{x:.2f}" for x in (entry["mean"], *entry["ci"]))
    return f"{mean} [{low} {high}]"
