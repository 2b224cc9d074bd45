"""Figure 7: figure 2 block by block."""

from __future__ import annotations

from typing import Any

from crossproof.evaluation import SCHEMES
from paper import fidelity
from paper.figure import Chart, Figure
from paper.lab import Lab
from paper.settings import Settings
from paper.words import shown, size, table

TITLE = "Figure 7: fidelity under ablation, block by block"


def run(settings: Settings) -> Figure:
    """Φ by scheme and block; a chart for each kind of resid_mid."""
    lab = Lab.open(settings)
    found = fidelity.measured(lab)
    blocks = list(lab.model.hookpoints().mlp_blocks)
    numbers = {"setup": lab.setup(), "recipe": fidelity.RECIPE, "blocks": blocks, "phi": found}
    charts = {
        mid.partition("_")[0]: Chart(
            f"Φ by ablation scheme and block, {fidelity.MID_LABELS[mid]}",
            [fidelity.panel(found, mid, at, f"block {block}") for at, block in enumerate(blocks)],
        )
        for mid in fidelity.mids(found)
    }
    return Figure(numbers, charts, words(numbers))


def words(numbers: dict[str, Any]) -> str:
    """A table of Φ keep-largest and none by block, for each kind of resid_mid."""
    found, blocks = numbers["phi"], numbers["blocks"]
    parts = [size(numbers["setup"])]
    for mid in fidelity.mids(found):
        rows = []
        for scheme in (SCHEMES[-1], SCHEMES[0]):
            for name, by_scheme in found.items():
                cells = [shown(entry) for entry in fidelity.by_block(by_scheme[scheme][mid])]
                rows.append([scheme, name, *cells])
        head = ["scheme", "", *(f"block {block}" for block in blocks)]
        parts += [f"Φ, {fidelity.MID_LABELS[mid]}:", table(head, rows)]
    return "\n\n".join(parts)
