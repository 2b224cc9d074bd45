"""Figure 2: how much of the MLPs' work survives an ablation of latents."""

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

TITLE = "Figure 2: fidelity under ablation of latents"


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Φ by scheme, mean over blocks, exact and reconstructed resid_mid."""
    experiment = Experiment.open(settings)
    phis = fidelity.measured(experiment)
    return {"setup": experiment.setup(), "recipe": RECIPE, "phi": phis}


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """A panel of bars for each kind of resid_mid."""
    phis = numbers["phi"]
    panels = [fidelity.panel(phis, mid) for mid in fidelity.mids(phis)]
    return {"main": Chart("Φ by ablation scheme, mean over blocks", panels, columns=1)}


def words(numbers: Mapping[str, Any]) -> str:
    """Tables of Φ, and what keeping one latent is worth beside keeping all."""
    phis, parts = numbers["phi"], [size(numbers["setup"]), _finding(numbers)]
    for mid in fidelity.mids(phis):
        rows = [
            [name, *(shown(by_scheme[scheme][mid]) for scheme in SCHEMES)]
            for name, by_scheme in phis.items()
        ]
        parts += [f"Φ, {fidelity.MID_LABELS[mid]}:", table(["", *SCHEMES], rows)]
    return "\n\n".join(parts)


def _finding(numbers: Mapping[str, Any]) -> str:
    lines = []
    for name, by_scheme in numbers["phi"].items():
        keep, every = (by_scheme[s]["exact_mid"]["mean"] for s in ("keep-largest", "none"))
        lines.append(f"{name}: {keep:.2f} of {every:.2f}")
    terms = ", ".join(f"{name} {value:g}" for name, value in numbers["recipe"].items())
    return (
        f"λ: the strength of the paper's penalty; recipe: {terms}. Φ of the dominant latent alone "
        f"beside Φ of all latents, exact resid_mid: {'; '.join(lines)}. A penalty helps where the "
        f"first number rises, and misleads where only the second falls."
    )
