"""The tables of docs/search.md from the points of `search_objectives.py`.

    python paper/scripts/search_table.py src/crossproof/report/published.json > table.md

Means over seeds, with the smallest and largest in brackets; FVU relative to the unpenalised
crosscoder of the same seed and size.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

Point = dict[str, Any]


def row(group: list[Point], base: dict[tuple[Any, ...], float]) -> str:
    """One line: the variant and its figures over seeds."""

    def figure(values: list[float], style: str = "{:.3f}") -> str:
        mean = sum(values) / len(values)
        spread = f" [{style.format(min(values))}, {style.format(max(values))}]"
        return style.format(mean) + (spread if len(values) > 1 else "")

    rise = [p["fvu"] / base[key(p)] - 1 for p in group if key(p) in base]
    cells = [
        group[0]["variant"].strip() or "-",
        figure([p["phi_keep"] for p in group]),
        figure([min(p["phi_keep_by_block"]) for p in group]),
        figure([p["phi_none"] for p in group]),
        figure([p["fvu"] for p in group]),
        figure(rise, "{:+.1%}") if rise else "-",
        figure([p["dominant_share"] for p in group]),
        figure([p["interaction"] for p in group], "{:.0f}"),
    ]
    return "| " + " | ".join(cells) + " |"


def key(point: Point) -> tuple[Any, ...]:
    """What a baseline must share with a penalised point: seed, size, rate, schedule, length."""
    size, rate = point["crosscoder"], [point["optimisation"][name] for name in ("lr", "decay")]
    return point["seed"], size["n_latents"], size["k"], *rate, point["steps"], point["batch_tokens"]


def main(paths: list[str]) -> None:
    """Prints one table of all points in the files."""
    points: list[Point] = []
    for path in paths:
        text = Path(path).read_text()
        lines = path.endswith(".jsonl")
        points += (
            [json.loads(x) for x in text.splitlines()] if lines else json.loads(text)["points"]
        )
    base = {key(p): p["fvu"] for p in points if not p["terms"]}
    groups: dict[tuple[Any, ...], list[Point]] = defaultdict(list)
    for point in points:
        groups[point["variant"], point["steps"], point["batch_tokens"]].append(point)
    print("| variant | Φ keep-largest | worst block | Φ all | FVU | FVU rise | share | I |")
    print("|---|---|---|---|---|---|---|---|")
    for group in groups.values():
        print(row(group, base))


if __name__ == "__main__":
    main(sys.argv[1:])
