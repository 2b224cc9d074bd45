"""Figure 7: figure 2 block by block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossproof.evaluation import SCHEMES
from paper.drawing.charts import Chart
from paper.drawing.words import shown, size, table
from paper.figures import fidelity
from paper.measuring.experiment import Experiment
from paper.measuring.objectives import RECIPE
from paper.measuring.settings import FigureSettings

TITLE = "Figure 7: fidelity under ablation, block by block"


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Φ by scheme and block."""
    experiment = Experiment.open(settings)
    phis = fidelity.measured(experiment)
    blocks = list(experiment.model.hookpoints().mlp_blocks)
    return {
        "setup": experiment.setup(),
        "recipe": RECIPE,
        "blocks": blocks,
        "phi": phis,
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """A chart for each kind of resid_mid, a panel a block."""
    phis, blocks = numbers["phi"], numbers["blocks"]
    return {
        mid.partition("_")[0]: Chart(
            f"Φ by ablation scheme and block, {fidelity.MID_LABELS[mid]}",
            [fidelity.panel(phis, mid, at, f"block {block}") for at, block in enumerate(blocks)],
        )
        for mid in fidelity.mids(phis)
    }


def words(numbers: Mapping[str, Any]) -> str:
    """A table of Φ keep-largest and none by block, for each kind of resid_mid."""
    phis, blocks = numbers["phi"], numbers["blocks"]
    parts = [size(numbers["setup"])]
    for mid in fidelity.mids(phis):
        rows = []
        for scheme in (SCHEMES[-1], SCHEMES[0]):
            for name, by_scheme in phis.items():
                cells = [shown(entry) for entry in fidelity.by_block(by_scheme[scheme][mid])]
                rows.append([scheme, name, *cells])
        head = ["scheme", "", *(f"block {block}" for block in blocks)]
        parts += [f"Φ, {fidelity.MID_LABELS[mid]}:", table(head, rows)]
    return "\n\n".join(parts)
