"""The table of rivals around one MLP, from what `rivals` published.

    python -m paper.scripts.rivals_table paper/data/rivals.json > table.md

Means over seeds and blocks, the smallest and largest in brackets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossproof.tables import Style, count, fixed, percent
from paper.drawing.words import table, written

RivalRow = dict[str, Any]
Reading = Callable[[RivalRow], float | None]


def at(figure: str, place: str) -> Reading:
    """A figure of the MLP's input (`hook_in`) or output (`hook_out`)."""
    return lambda row: next((v for name, v in row[figure].items() if name.endswith(place)), None)


def kept(latents: int) -> Reading:
    """Φ where every neuron keeps so many latents."""
    return lambda row: row.get("phi_keep", {}).get(str(latents))


def plain(figure: str) -> Reading:
    """A figure by its name; None of rivals that have none."""
    return lambda row: row.get(figure)


COLUMNS: dict[str, tuple[Reading, Style]] = {
    "Φ keep-largest": (plain("phi_keep_largest"), fixed(3)),
    "Φ keep 4": (kept(4), fixed(3)),
    "Φ all": (plain("phi_all"), fixed(3)),
    "FVU in": (at("fvu", "hook_in"), fixed(3)),
    "FVU out": (at("fvu", "hook_out"), fixed(3)),
    "CE recovered, input replaced": (at("ce_recovered", "hook_in"), fixed(3)),
    "CE recovered, output replaced": (at("ce_recovered", "hook_out"), fixed(3)),
    "I": (plain("interaction"), count),
    "J, additive": (plain("additive"), count),
    "mean Jacobian": (plain("jacobian"), fixed(3)),
    "Jacobian above .01": (plain("jacobian_above"), percent),
    "edges for 90%": (plain("jacobian_edges"), count),
    "L0": (plain("l0"), fixed(1)),
    "dead": (plain("dead"), percent),
    "seconds": (plain("seconds"), count),
}


def cell(rows: list[RivalRow], reading: Reading, style: Style) -> str:
    """The mean with its range, or a dash."""
    values = [value for row in rows if (value := reading(row)) is not None]
    if not values:
        return "–"
    spread = (min(values), max(values)) if len(values) > 1 else None
    return written(sum(values) / len(values), spread, style)


def rivals_table(rows: list[RivalRow]) -> str:
    """A line a rival."""
    groups: dict[str, list[RivalRow]] = {}
    for row in rows:
        groups.setdefault(row["rival"], []).append(row)
    body = [
        [name, str(len(group)), *(cell(group, *column) for column in COLUMNS.values())]
        for name, group in groups.items()
    ]
    return table(["rival", "runs", *COLUMNS], body)


def main(path: str) -> None:
    """Prints the table."""
    print(rivals_table(json.loads(Path(path).read_text())["rows"]))


if __name__ == "__main__":
    main(sys.argv[1])
