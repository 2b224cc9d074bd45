"""Search for the objective, its strength and the crosscoder's size, on the validation split.

    python scripts/search_objectives.py --grid objectives --seeds 0 1 --out runs/search

All variants of a seed train on the same batches in one pass; each is then evaluated on the
validation split (never on the held-out one). `OUT/points.jsonl` gets a line a variant and seed;
variants that are already there are not trained again. `--publish` collects the points into the
file that the report draws behind a run's own two points.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from crossproof.activations import Harvest, read_sequences
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.lm import LanguageModel, load_model
from crossproof.training.config import DEMO, RunConfig
from crossproof.training.objectives import Objective
from crossproof.training.trainer import Trainer


@dataclass(frozen=True)
class Search:
    """Trains and evaluates a grid of variants."""

    out: Path = Path("runs/search")
    grid: str = "objectives"
    """objectives, baseline, sizes, or optimisation."""
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 1000
    batch_tokens: int = 512
    sequences: int = 64
    """Validation sequences."""
    threads: int = 2
    only: str = ""
    """Only variants whose name contains this."""
    publish: Path | None = None
    """Write all points found so far to this JSON file, and train nothing."""


def grid(name: str, base: RunConfig) -> dict[str, RunConfig]:
    """The variants of a grid by name."""

    def objective(**terms: Any) -> RunConfig:
        return replace(base, objective=Objective(**terms))

    variants = {"unpenalised": objective()}
    if name == "objectives":
        for s in (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0):
            variants[f"interaction {s:g}"] = objective(interaction=s)
        for s in (300.0, 1000.0, 3000.0):
            variants[f"transition {s:g}"] = objective(transition=s)
            variants[f"transition + all {s:g}"] = objective(transition=s, all_latents=s)
            variants[f"transition + all + interaction {s:g}"] = objective(
                transition=s, all_latents=s, interaction=s / 30
            )
        for s in (3.0, 30.0):
            variants[f"certified {s:g}"] = objective(certified=s)
        for s in (100.0, 1000.0):
            variants[f"share {s:g}"] = objective(share=s)
    elif name == "pilot":
        del variants["unpenalised"]
        for k in (16, 32):
            sized = replace(base, crosscoder=CrosscoderConfig(n_latents=1024, k=k))
            variants[f"unpenalised k={k}"] = replace(sized, objective=Objective())
            for s in (1000.0, 3000.0):
                terms = Objective(transition=s, all_latents=s)
                variants[f"k={k} {s:g}"] = replace(sized, objective=terms)
    elif name == "baseline":
        for k in (16, 32):
            for width in (512, 1024, 2048):
                sized = replace(base, crosscoder=CrosscoderConfig(n_latents=width, k=k))
                variants[f"unpenalised H={width} k={k}"] = replace(sized, objective=Objective())
    elif name == "sizes":
        for k in (16, 32):
            for width in (1024, 2048):
                sized = replace(base, crosscoder=CrosscoderConfig(n_latents=width, k=k))
                variants[f"unpenalised H={width} k={k}"] = replace(sized, objective=Objective())
                variants[f"H={width} k={k}"] = sized
    else:
        for lr in (5e-4, 1e-3, 2e-3, 4e-3):
            tuned = replace(base, optimisation=replace(base.optimisation, lr=lr))
            variants[f"unpenalised lr={lr:g}"] = replace(tuned, objective=Objective())
            variants[f"lr={lr:g}"] = tuned
    return variants


def train_variants(
    model: LanguageModel, variants: dict[str, RunConfig], search: Search, seed: int
) -> dict[str, Crosscoder]:
    """Trains all variants on the same batches."""
    hookpoints = model.hookpoints()
    sequences = read_sequences("bundled", model, model.context, "train")
    harvest = Harvest(model, sequences, hookpoints, search.batch_tokens, seed=seed)
    sample = torch.cat([harvest.batch(step) for step in range(8)])
    blocks = {hookpoints.blocks[b].mlp_in: model.mlp(b) for b in hookpoints.mlp_blocks}
    mlps = {place: mlp for place, mlp in blocks.items() if place is not None}
    trainers = {}
    for name, config in variants.items():
        crosscoder = Crosscoder(config.crosscoder, hookpoints, model.d_model)
        crosscoder.initialise(sample, seed)
        settings = config.objective, config.optimisation, search.steps, seed
        trainers[name] = Trainer(crosscoder, mlps, *settings)
    began = time.perf_counter()
    for step, batch in zip(range(search.steps), harvest.iterate(), strict=False):
        for trainer in trainers.values():
            trainer.step(batch)
        if (step + 1) % 50 == 0:
            left = (time.perf_counter() - began) / (step + 1) * (search.steps - step - 1)
            print(f"seed {seed}: step {step + 1}/{search.steps}, {left:.0f} s left", flush=True)
    return {name: trainer.crosscoder.eval() for name, trainer in trainers.items()}


def point(name: str, config: RunConfig, seed: int, figures: dict[str, Any]) -> dict[str, Any]:
    """One line of points.jsonl."""
    phi = figures["phi"]
    return {
        "variant": name,
        "objective": config.objective.describe(),
        "terms": config.objective.strengths(),
        "crosscoder": asdict(config.crosscoder),
        "lr": config.optimisation.lr,
        "seed": seed,
        "phi_keep": phi["keep-largest"]["exact_mid"]["mean"],
        "phi_keep_ci": phi["keep-largest"]["exact_mid"]["ci"],
        "phi_keep_by_block": phi["keep-largest"]["exact_mid"]["by_block"],
        "phi_none": phi["none"]["exact_mid"]["mean"],
        **{k: figures[k] for k in ("fvu", "fvu_mlp_in", "l0", "dead", "dominant_share")},
        "interaction": figures["interaction"],
        "additive_interaction": figures.get("additive_interaction"),
    }


def main(search: Search) -> None:
    """Trains what is missing, evaluates it, appends the points."""
    torch.set_num_threads(search.threads)
    path = search.out / "points.jsonl"
    search.out.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    points = [json.loads(line) for line in lines]
    if search.publish is not None:
        content = {
            "model_hash": load_model("bundled").weights_hash,
            "note": f"{search.steps} steps of {search.batch_tokens} tokens, "
            f"{search.sequences} validation sequences",
            "points": points,
        }
        search.publish.write_text(json.dumps(content, indent=1) + "\n")
        return
    model = load_model("bundled")
    validation = read_sequences("bundled", model, model.context, "validation")[: search.sequences]
    base = replace(DEMO, batch_tokens=search.batch_tokens, steps=search.steps)
    for seed in search.seeds:
        done = {p["variant"] for p in points if p["seed"] == seed}
        wanted = {
            name: config
            for name, config in grid(search.grid, base).items()
            if name not in done and search.only in name
        }
        if not wanted:
            continue
        for name, crosscoder in train_variants(model, wanted, search, seed).items():
            options = EvaluationOptions(patch_hookpoints=False)
            figures = evaluate(model, crosscoder, validation, options)
            line = point(name, wanted[name], seed, figures)
            with path.open("a") as handle:
                handle.write(json.dumps(line) + "\n")
            print(
                f"{name:36s} Φ keep {line['phi_keep']:.3f}  Φ all {line['phi_none']:.3f}  "
                f"FVU {line['fvu']:.3f}  dead {line['dead']:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Search))
