"""Figure 8: the trade-off over the dictionary's width and sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crossproof.crosscoder import CrosscoderConfig
from paper.drawing.charts import Chart
from paper.drawing.words import number
from paper.figures import scaling
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings

TITLE = "Figure 8: width and sparsity of the crosscoder"
WIDTHS, QUICK_WIDTHS = (256, 512, 1024), (64, 128)
KS, QUICK_KS = (8, 16, 32), (4, 8)


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Φ, FVU and dominant share against width at fixed k, and against k at fixed width."""
    experiment = Experiment.open(settings)
    middle = experiment.config().crosscoder
    width_values, k_values = (QUICK_WIDTHS, QUICK_KS) if settings.quick else (WIDTHS, KS)
    widths = {f"H = {h:,}": replace(middle, n_latents=h) for h in width_values}
    ks = {f"k = {k}": replace(middle, k=k) for k in k_values}
    trade_offs = scaling.measured(experiment, sizes(widths, ks))
    return {
        "setup": experiment.setup() | scaling.trained(experiment),
        "objectives": scaling.OBJECTIVES,
        "widths": {name: trade_offs[key(size)] for name, size in widths.items()},
        "ks": {name: trade_offs[key(size)] for name, size in ks.items()},
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """Along either direction, the other at its middle."""
    setup = numbers["setup"]
    return {
        "main": chart(numbers["widths"], "width H", f"k = {setup['k']}"),
        "k": chart(numbers["ks"], "k", f"H = {setup['n_latents']:,}"),
    }


def sizes(*groups: dict[str, CrosscoderConfig]) -> dict[str, CrosscoderConfig]:
    """Each size once, under its own name."""
    return {key(size): size for group in groups for size in group.values()}


def key(size: CrosscoderConfig) -> str:
    """A size's name among the trainings."""
    return f"H = {size.n_latents}, k = {size.k}"


def chart(trade_offs: dict[str, Any], label: str, fixed: str) -> Chart:
    """The trade-off along one direction."""
    title = f"Trade-off against {label}, {fixed}"
    return Chart(title, scaling.panels(trade_offs, list(trade_offs), "line"))


def words(numbers: Mapping[str, Any]) -> str:
    """Two tables, and the gain of each objective along them."""
    setup, widths, ks = numbers["setup"], numbers["widths"], numbers["ks"]
    return "\n\n".join(
        [
            scaling.size(numbers),
            f"Φ of the dominant latent alone (no penalty, the paper's penalty, the recipe): "
            f"{scaling.gains(widths)}; {scaling.gains(ks)}. {_interaction(widths)} "
            f"{_interaction(ks)}",
            f"Width at k = {setup['k']}:",
            scaling.rows("width", widths),
            f"Sparsity at H = {setup['n_latents']:,}:",
            scaling.rows("k", ks),
        ]
    )


def _interaction(trade_offs: dict[str, Any]) -> str:
    ends = next(iter(trade_offs)), list(trade_offs)[-1]
    parts = []
    for objective in scaling.OBJECTIVES:
        first, last = (number(trade_offs[end][objective]["interaction"]["mean"], 1) for end in ends)
        parts.append(f"{objective} {first} and {last}")
    return f"I at {ends[0]} and {ends[1]}: {', '.join(parts)}."
