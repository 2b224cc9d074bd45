"""What the two penalty examples share: their data, and the table of their figures.

A residual SAE behind block 0 of the bundled model, and the MLP of block 1 that reads it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

import crossproof

HOOKPOINT, STREAM, BLOCK = "blocks.0.hook_resid_post", "blocks.1.ln2.hook_in", 1
CONTEXT = 128


@dataclass(frozen=True)
class Settings:
    """Size of the comparison."""

    out: Path
    """Where the trained SAEs are saved."""
    n_latents: int = 512
    k: int = 16
    steps: int = 300
    batch: int = 512
    learning_rate: float = 2e-3
    keep_largest: float = 0.3
    """Strength of the penalty, where the reconstruction's error counts 1."""
    seeds: int = 3
    sequences: int = 32
    """Held-out sequences of 128 tokens that are evaluated."""


def batches(
    model: crossproof.LanguageModel, settings: Settings, seed: int
) -> Iterator[torch.Tensor]:
    """What the SAE reads, and beside it what the MLP's norm reads: [B, 2 D], without end.

    Attention of block 1 adds to the stream between the two.
    """
    sequences = crossproof.read_sequences("bundled", model, CONTEXT)
    places = model.hookpoints([HOOKPOINT])
    harvest = crossproof.Harvest(model, sequences, places, settings.batch, seed=seed, also=[STREAM])
    for batch in harvest:
        yield batch.flatten(1)


def compare(settings: Settings, train: Callable[..., Path], name: str) -> None:
    """Trains with and without the penalty from the same seeds, and prints figures side by side."""
    torch.set_num_threads(1)
    model = crossproof.load_model("bundled")
    columns = {"without": 0.0, "with": settings.keep_largest}
    rows: dict[str, dict[str, list[crossproof.EvaluationResult]]] = {}
    for seed in range(settings.seeds):
        for column, strength in columns.items():
            out = settings.out / f"{column}-{seed}"
            saved = train(model, settings, strength, seed, out)
            result = figures(model, saved, settings)
            rows.setdefault(column, {})[str(seed)] = [result]
    print(table(name, {c: [r for [r] in found.values()] for c, found in rows.items()}))


def figures(
    model: crossproof.LanguageModel, saved: Path, settings: Settings
) -> crossproof.EvaluationResult:
    """The SAE as its library saved it, imported and evaluated on held-out text."""
    crosscoder, _ = crossproof.import_dictionary(saved, model, [HOOKPOINT])
    held_out = crossproof.read_sequences("bundled", model, CONTEXT, "held_out")
    options = crossproof.EvaluationOptions(
        patch_hookpoints=False, schemes=("none", "keep-largest"), mlps=(BLOCK,), latents=0
    )
    return crossproof.evaluate(model, crosscoder, held_out[: settings.sequences], options)


def table(name: str, results: dict[str, list[crossproof.EvaluationResult]]) -> str:
    """Means over seeds in Markdown, with the lowest and highest end of their 95% intervals."""
    rows = {
        "Φ, keep only the largest": lambda r: r.fidelity("keep-largest"),
        "Φ, keep only the largest, mean rest": lambda r: r.fidelity("keep-largest", "mean_rest"),
        "Φ, all latents, exact rest": lambda r: r.fidelity("none"),
        "Φ, all latents, mean rest": lambda r: r.fidelity("none", "mean_rest"),
        "Interaction I": lambda r: r.figure("interaction"),
        "FVU": lambda r: r.figure("fvu"),
        "L0": lambda r: r.figure("l0"),
        "Dead latents": lambda r: r.figure("dead"),
    }
    lines = [f"| {name} | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    for label, figure in rows.items():
        cells = []
        for each in results.values():
            found = [estimate for result in each if (estimate := figure(result)) is not None]
            mean = statistics.fmean(estimate.mean for estimate in found)
            ends = [end for estimate in found for end in estimate.ci or ()]
            interval = f" ({min(ends):.3f} to {max(ends):.3f})" if ends else ""
            cells.append(f"{mean:.3f}{interval}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
