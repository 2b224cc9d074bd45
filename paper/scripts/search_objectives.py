"""Search for the objective, its strength and the crosscoder's size, on the validation split.

    python -m paper.scripts.search_objectives --grid objectives --seeds 0 1 --out runs/search
    python -m paper.scripts.search_objectives --grid knobs --base "n_latents=1024 k=16 lr=2e-3"

All variants of a seed train on the same batches in one pass; each is then evaluated on the
validation split (never on the held-out one). `OUT/points.jsonl` gets a line a variant and seed;
variants that are already there are not trained again. `--publish` collects the points into the
file that the report draws behind a run's own two points.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from crossproof.activations import read_sequences
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.files import write_json
from crossproof.lm import load_model
from crossproof.training import (
    DEMO,
    OBJECTIVES,
    Objective,
    RunConfig,
    keep_freed_memory,
    train_together,
)
from paper.measuring.objectives import KEEP_LARGEST
from paper.measuring.objectives import RECIPE as DEMO_OBJECTIVE


@dataclass(frozen=True)
class ObjectiveSearch:
    """Trains and evaluates a grid of variants."""

    out: Path = Path("runs/search")
    grid: str = "objectives"
    """objectives, or knobs: rate, schedule, k, width, warm-up and warm start of the penalty."""
    variants: tuple[str, ...] = ()
    """These instead of a grid, each a quoted list of settings: "k=32 l1=0.1"."""
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 1000
    batch_tokens: int = 512
    sequences: int = 64
    """Validation sequences."""
    threads: int = 2
    base: str = ""
    """Settings that all variants share."""
    publish: Path | None = None
    """Write all points found so far to this JSON file, and train nothing."""


RECIPE = " ".join(f"{term}={strength:g}" for term, strength in DEMO_OBJECTIVE.items())
"""The recipes' objective."""

GRIDS: dict[str, list[str]] = {
    "objectives": [
        "",
        *(f"interaction={s}" for s in (10, 100, 300, 1000, 3000, 10000)),
        *(f"{KEEP_LARGEST}={s}" for s in (100, 400)),
        *(f"{KEEP_LARGEST}={s} all_latents={s / 4:g}" for s in (50, 100, 200, 400, 1000)),
        f"{KEEP_LARGEST}=400 all_latents=400",
        *(f"{KEEP_LARGEST}=400 all_latents=100 interaction={s}" for s in (10, 100)),
        *(f"certified={s}" for s in (3, 30)),
        *(f"share={s}" for s in (100, 1000)),
    ],
    "knobs": [
        f"{terms} {knob}".strip()
        for terms in ("", RECIPE)
        for knob in (
            *("", "lr=1e-3", "lr=4e-3", "decay=0.7"),
            *("k=8", "k=32", "n_latents=512", "n_latents=2048"),
        )
    ]
    + [
        f"{RECIPE} {knob}"
        for knob in (
            *("penalty_warmup=0.02", "penalty_warmup=0.5"),
            *("penalty_delay=0.25", "penalty_delay=0.5", "penalty_delay=0.75"),
        )
    ],
}
"""A variant is a list of settings beside the defaults: `k=32 interaction=400 lr=2e-3`."""
WANTED = EvaluationOptions(
    patch_hookpoints=False, schemes=("none", "keep-largest"), mids=("exact_mid",)
)
INITIAL_BATCHES = 8
"""Enough tokens to seed the widest crosscoder at 512 tokens a batch."""


def configure(variant: str, base: RunConfig) -> RunConfig:
    """The base without penalties, with the variant's settings of crosscoder, objective, optimiser.

    Raises ValueError for a setting that none of them has.
    """
    config = replace(base, objective=Objective())
    for setting in variant.split():
        name, _, text = setting.partition("=")
        if name in OBJECTIVES:
            terms = {**config.objective, name: float(text)}
            config = replace(config, objective=Objective(terms))
            continue
        for part in ("crosscoder", "optimisation"):
            current = getattr(config, part)
            if name in {f.name for f in fields(current)}:
                value = type(getattr(current, name))(text)
                config = replace(config, **{part: replace(current, **{name: value})})
                break
        else:
            raise ValueError(f"{name} is not a setting of crosscoder, objective or optimisation.")
    return config


def point(name: str, config: RunConfig, seed: int, figures: dict[str, Any]) -> dict[str, Any]:
    """One line of points.jsonl."""
    phi = figures["phi"]
    return {
        "variant": name,
        "objective": config.objective.describe(),
        "terms": config.objective.strengths(),
        "crosscoder": asdict(config.crosscoder),
        "optimisation": asdict(config.optimisation),
        "steps": config.steps,
        "batch_tokens": config.batch_tokens,
        "seed": seed,
        "phi_keep": phi["keep-largest"]["exact_mid"]["mean"],
        "phi_keep_ci": phi["keep-largest"]["exact_mid"]["ci"],
        "phi_keep_by_block": phi["keep-largest"]["exact_mid"]["by_block"],
        "phi_none": phi["none"]["exact_mid"]["mean"],
        **{k: figures[k] for k in ("fvu", "fvu_mlp_in", "l0", "dead", "dominant_share")},
        "interaction": figures["interaction"],
        "additive_interaction": figures.get("additive_interaction"),
    }


def family(terms: dict[str, float]) -> str:
    """The objective without its strength: terms, later ones relative to the first."""
    if not terms:
        return "reconstruction only"
    names = sorted(terms, key=lambda name: name == "interaction")  # others mix it in
    parts = (f"{name} ×{terms[name] / terms[names[0]]:g}" for name in names[1:])
    return " + ".join([names[0], *parts])


def publish(points: list[dict[str, Any]], path: Path) -> None:
    """Collects points for the report: {objective, strength, seed, phi_keep, phi_none, fvu, ...}."""
    kept = []
    for entry in points:
        terms = entry["terms"]
        strength = max(terms.values(), default=0.0)
        kept.append(entry | {"objective": family(terms), "strength": strength})
    first = points[0]
    seeds = len({entry["seed"] for entry in points})
    note = (
        f"{first['crosscoder']['n_latents']:,} latents, k = {first['crosscoder']['k']}, "
        f"{first['steps']} steps of {first['batch_tokens']:,} tokens, {seeds} seeds, "
        f"validation text."
    )
    content = {"model_hash": load_model("bundled").weights_hash, "note": note, "points": kept}
    write_json(path, content)


def main(search: ObjectiveSearch) -> None:
    """Trains what is missing, evaluates it, appends the points."""
    torch.set_num_threads(search.threads)
    keep_freed_memory()
    path = search.out / "points.jsonl"
    search.out.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    points = [json.loads(line) for line in lines]
    if search.publish is not None:
        publish(points, search.publish)
        return
    model = load_model("bundled")
    validation = read_sequences("bundled", model, model.context, "validation")[: search.sequences]
    train = read_sequences("bundled", model, model.context, "train")
    base = replace(DEMO, batch_tokens=search.batch_tokens, steps=search.steps)
    for seed in search.seeds:
        size = search.steps, search.batch_tokens
        done = {
            p["variant"]
            for p in points
            if p["seed"] == seed and (p["steps"], p["batch_tokens"]) == size
        }
        names = (f"{search.base} {v}".strip() for v in search.variants or GRIDS[search.grid])
        wanted = {name: configure(name, base) for name in names if name not in done}
        if not wanted:
            continue
        wanted = {name: replace(config, seed=seed) for name, config in wanted.items()}
        trained = train_together(model, train, wanted, print, INITIAL_BATCHES)
        for name, crosscoder in trained.items():
            figures = evaluate(model, crosscoder, validation, WANTED).to_json()
            line = point(name, wanted[name], seed, figures)
            with path.open("a") as handle:
                handle.write(json.dumps(line) + "\n")
            print(
                f"{name:56s} Φ keep {line['phi_keep']:.3f}  Φ all {line['phi_none']:.3f}  "
                f"FVU {line['fvu']:.3f}  dead {line['dead']:.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(ObjectiveSearch))
