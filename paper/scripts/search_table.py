"""The tables of docs/search.md from the points of `search_objectives.py`.

    python -m paper.scripts.search_table src/crossproof/report/published.json > table.md

Means over seeds, with the smallest and largest in brackets; FVU relative to the unpenalised
crosscoder of the same seed and size.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from crossproof.tables import Style, fixed, minus
from paper.drawing.words import table, written

SearchPoint = dict[str, Any]

THREE = fixed(3)


def rises(value: float) -> str:
    """A relative change with one decimal."""
    return minus(f"{value:+.1%}")


def row(group: list[SearchPoint], base: dict[tuple[Any, ...], float]) -> list[str]:
    """One line: the variant and its figures over seeds."""

    def figure(values: list[float], style: Style = THREE) -> str:
        spread = (min(values), max(values)) if len(values) > 1 else None
        return written(sum(values) / len(values), spread, style)

    rise = [p["fvu"] / base[key(p)] - 1 for p in group if key(p) in base]
    return [
        group[0]["variant"].strip() or "-",
        figure([p["phi_keep"] for p in group]),
        figure([min(p["phi_keep_by_block"]) for p in group]),
        figure([p["phi_none"] for p in group]),
        figure([p["fvu"] for p in group]),
        figure(rise, rises) if rise else "-",
        figure([p["dominant_share"] for p in group]),
        figure([p["interaction"] for p in group], fixed(0)),
    ]


def key(point: SearchPoint) -> tuple[Any, ...]:
    """What a baseline must share with a penalised point: seed, size, rate, schedule, length."""
    size, rate = point["crosscoder"], [point["optimisation"][name] for name in ("lr", "decay")]
    return point["seed"], size["n_latents"], size["k"], *rate, point["steps"], point["batch_tokens"]


def main(paths: list[str]) -> None:
    """Prints one table of all points in the files."""
    points: list[SearchPoint] = []
    for path in paths:
        text = Path(path).read_text()
        lines = path.endswith(".jsonl")
        points += (
            [json.loads(x) for x in text.splitlines()] if lines else json.loads(text)["points"]
        )
    base = {key(p): p["fvu"] for p in points if not p["terms"]}
    groups: dict[tuple[Any, ...], list[SearchPoint]] = defaultdict(list)
    for point in points:
        groups[point["variant"], point["steps"], point["batch_tokens"]].append(point)
    head = ["variant", "Φ keep-largest", "worst block", "Φ all", "FVU", "FVU rise", "share", "I"]
    print(table(head, [row(group, base) for group in groups.values()]))


if __name__ == "__main__":
    main(sys.argv[1:])
