"""Results of made-up runs in the schema of results.json, for tests of the report."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

from crossproof.evaluation.contexts import Context, LatentExample
from crossproof.training.config import RECIPES
from crossproof.training.objectives import Objective

BLOCKS = 2
HOOKPOINTS = [
    *(f"blocks.{b}.{role}" for b in range(BLOCKS) for role in ("hook_resid_pre", "mlp.hook_in")),
    f"blocks.{BLOCKS - 1}.hook_resid_post",
]
SCHEMES = ("none", "drop-random", "drop-second", "drop-largest", "keep-largest")


def run(objective: str, keep: float, every: float, fvu: float, seed: int = 0) -> dict[str, Any]:
    """One run with these headline figures; the others are drawn from `seed`."""
    rng = random.Random(seed)

    def phi(mean: float) -> dict[str, Any]:
        parts = [mean - 0.05, mean + 0.05]
        return {"mean": mean, "ci": [mean - 0.011, mean + 0.012], "by_block": parts}

    whole = {"none": every, "keep-largest": keep}
    means = {scheme: whole.get(scheme, rng.uniform(-0.2, 0.9)) for scheme in SCHEMES}
    figures = {"l0": 16.2, "fvu": fvu, "fvu_mlp_in": fvu + 0.03, "dominant_share": rng.random()}
    figures |= {name: rng.uniform(1, 200) for name in ("interaction", "residual")}
    figures |= {name: rng.uniform(0.8, 1) for name in ("ce_recovered", "kl_recovered")}
    return {
        "objective": objective,
        "sequences": 12,
        "tokens": 3001,
        **figures,
        "dead": 0.0625,
        "model_loss": 2.2,
        "intervals": {name: [value * 0.98, value * 1.03] for name, value in figures.items()},
        "by_hookpoint": {
            name: {hookpoint: rng.random() for hookpoint in HOOKPOINTS}
            for name in ("fvu", "ce_recovered", "kl_recovered")
        },
        "by_block": {"fvu_mlp_in": [0.1, 0.2], "dominant_share": [0.3, 0.4]},
        "blocks": list(range(BLOCKS)),
        "phi": {
            scheme: {"exact_mid": phi(mean), "reconstructed_mid": phi(mean - 0.1)}
            for scheme, mean in means.items()
        },
        "share_histogram": {"edges": [0, 0.5, 1], "by_block": [[0.3, 0.7], [0.6, 0.4]]},
    }


def results() -> dict[str, Any]:
    """An unpenalised and a penalised run of the demo recipe; the penalty helps and costs little."""
    plain = run("reconstruction only", keep=0.26, every=0.89, fvu=0.146, seed=1)
    penalised = run("transition 1000, all_latents 1000", keep=0.66, every=0.90, fvu=0.157, seed=2)
    demo = asdict(RECIPES["demo"])
    return {
        "schema": 1,
        "model": "bundled",
        "model_hash": "0123456789abcdef",
        "seed": 0,
        "steps": 1000,
        "batch_tokens": 1024,
        "tokens": 1_024_000,
        "seconds": 251.0,
        "evaluated_on": {"text": "bundled", "split": "held_out", "sequences": 12, "context": 256},
        "runs": {
            "unpenalised": plain | {"training": demo | {"objective": asdict(Objective())}},
            "penalised": penalised | {"training": demo},
        },
    }


def examples(text: str = " <b>Lily</b>") -> dict[str, list[LatentExample]]:
    """Two latents a run, whose contexts hold `text`, a newline and a very long word."""
    tokens = ("Once", " upon", "\n", text, " " + "long" * 30)
    context = Context(tokens, (0.0, 0.5, 0.25, 2.0, 0.0), peak=3)
    latents = [LatentExample(n, 0.0123, 1.5, (context, context)) for n in (7, 401)]
    return {"unpenalised": latents, "penalised": latents}


def published() -> dict[str, Any]:
    """A small sweep: two objectives, two strengths, two seeds."""
    points = [
        {
            "objective": objective,
            "strength": strength,
            "seed": seed,
            "phi_keep": 0.3 + 0.1 * place + 0.01 * seed,
            "phi_none": 0.9 - 0.1 * place,
            "fvu": 0.15,
        }
        for objective in ("interaction", "transition")
        for place, strength in enumerate((100.0, 1000.0))
        for seed in (0, 1)
    ]
    return {"points": points, "note": "Two seeds & two strengths."}
