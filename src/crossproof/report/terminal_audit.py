"""Tables of `crossproof audit`."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

LISTED = 20


def detectors_table(content: dict[str, Any]) -> Table:
    """How many suspect texts each detector flags."""
    suspects = content["suspect"]["texts"]
    level = next(iter(content["detectors"].values()))["level"]
    chance = f"by chance about {level * suspects:.1f}"
    table = Table(title=f"Flagged of {suspects} suspect texts ({chance})")
    table.add_column("detector", no_wrap=True)
    table.add_column("looks at")
    table.add_column("flagged", justify="right")
    for name, entry in content["detectors"].items():
        style = "bold" if name == content["settings"]["detector"] else ""
        table.add_row(name, entry["about"], str(entry["flagged"]), style=style)
    return table


def ranked_table(content: dict[str, Any]) -> Table:
    """The most anomalous texts by the chosen detector."""
    name = content["settings"]["detector"]
    table = Table(title=f"Most anomalous by '{name}'")
    for heading in ("text", "chance", "score"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=6)
    table.add_column("begins", overflow="ellipsis", no_wrap=True, ratio=1)
    for row in content["texts"][:LISTED]:
        excerpt = Text(row["text"].replace("\n", "↵"))
        chance, score = row["chance"][name], row["score"][name]
        table.add_row(str(row["place"] + 1), f"{chance:.3f}", f"{score:.4g}", excerpt)
    return table
