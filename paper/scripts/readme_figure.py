"""Draws the README's figure from a run's results.json.

    python -m paper.scripts.readme_figure runs/full/results.json

Φ under every ablation scheme, mean over blocks, one bar a crosscoder, with 95% intervals. The
picture is transparent and its greys and colours are legible on white and on dark pages.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SCHEMES = {
    "none": "all latents",
    "drop-random": "drop a\nrandom one",
    "drop-second": "drop the\nsecond",
    "drop-largest": "drop the\nlargest",
    "keep-largest": "keep only\nthe largest",
}
COLOURS = ("#d9822b", "#3d8fd1", "#2f9e7d", "#c2699c")
GREY = "#7d868f"
BAR = 0.8
"""Width of all bars of a scheme together."""


@dataclass(frozen=True)
class HeadlineFigure:
    """What to draw, and where to."""

    results: Annotated[Path, tyro.conf.Positional]
    """results.json of a run."""
    output: Path = Path("docs/headline.svg")
    """The picture; the ending decides the format (svg or png)."""
    mid: str = "exact_mid"
    """exact_mid or reconstructed_mid."""


def draw(results: dict[str, Any], mid: str) -> Figure:
    """Grouped bars: one group a scheme, one bar a run."""
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    axes = figure.add_subplot()
    runs = list(results["runs"].items())
    width = BAR / len(runs)
    for place, (name, run) in enumerate(runs):
        values = [run["phi"][scheme][mid] for scheme in SCHEMES]
        at = [group + (place - (len(runs) - 1) / 2) * width for group in range(len(SCHEMES))]
        means = [value["mean"] for value in values]
        below = [value["mean"] - value["ci"][0] for value in values]
        above = [value["ci"][1] - value["mean"] for value in values]
        colour = COLOURS[place % len(COLOURS)]
        label = f"{name}: {run['objective']}"
        axes.bar(at, means, width * 0.92, color=colour, label=label)
        axes.errorbar(at, means, (below, above), fmt="none", ecolor=GREY, elinewidth=1.3, capsize=3)
        for x, mean, up in zip(at, means, above, strict=True):
            height = max(mean + up, 0) + 0.02
            axes.text(x, height, f"{mean:.2f}", ha="center", color=colour, fontsize=9)
    _dress(axes)
    return figure


def _dress(axes: Axes) -> None:
    axes.set_xticks(range(len(SCHEMES)), list(SCHEMES.values()))
    axes.set_ylabel("Φ, mean over blocks")
    axes.axhline(0, color=GREY, linewidth=1)
    axes.axhline(1, color=GREY, linewidth=1, linestyle=":")
    axes.set_ylim(top=1.1)
    axes.tick_params(colors=GREY, length=0)
    axes.yaxis.label.set_color(GREY)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.figure.legend(
        loc="outside upper left", ncols=2, frameon=False, fontsize=9.5, labelcolor=GREY
    )


def main(options: HeadlineFigure) -> None:
    """Reads, draws, writes."""
    results = json.loads(options.results.read_text(encoding="utf-8"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if options.output.suffix == ".svg" else None
    # Text stays text, and equal results give equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "crossproof"}):
        figure = draw(results, options.mid)
        figure.savefig(options.output, transparent=True, dpi=200, metadata=metadata)
    print(options.output)


if __name__ == "__main__":
    main(tyro.cli(HeadlineFigure))
