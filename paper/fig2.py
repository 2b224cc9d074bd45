"""Figure 2: how much of the MLPs' work survives an ablation of latents."""

from __future__ import annotations

from typing import Any

from crossproof.evaluation import SCHEMES
from paper import fidelity
from paper.figure import Chart, Figure
from paper.lab import Lab
from paper.settings import Settings
from paper.words import shown, size, table

TITLE = "Figure 2: fidelity under ablation of latents"


def run(settings: Settings) -> Figure:
    """Φ by scheme, mean over blocks, exact and reconstructed resid_mid."""
    lab = Lab.open(settings)
    found = fidelity.measured(lab)
    numbers = {"setup": lab.setup(), "recipe": fidelity.RECIPE, "phi": found}
    panels = [fidelity.panel(found, mid) for mid in fidelity.mids(found)]
    chart = Chart("Φ by ablation scheme, mean over blocks", panels, columns=1)
    return Figure(numbers, {"main": chart}, words(numbers))


def words(numbers: dict[str, Any]) -> str:
    """Tables of Φ, and what keeping one latent is worth beside keeping all."""
    found, parts = numbers["phi"], [size(numbers["setup"]), _finding(numbers)]
    for mid in fidelity.mids(found):
        rows = [
            [name, *(shown(by_scheme[scheme][mid]) for scheme in SCHEMES)]
            for name, by_scheme in found.items()
        ]
        parts += [f"Φ, {fidelity.MID_LABELS[mid]}:", table(["", *SCHEMES], rows)]
    return "\n\n".join(parts)


def _finding(numbers: dict[str, Any]) -> str:
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
