"""Results of made-up runs in the schema of results.json, for tests of the report."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crossproof.evaluation import Context, LatentExample, RunEvaluation
from crossproof.training.config import RECIPES, config_to_dict
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
    demo = config_to_dict(RECIPES["demo"])
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
            "unpenalised": plain | {"training": demo | {"objective": dict(Objective())}},
            "penalised": penalised | {"training": demo},
        },
    }


def examples(text: str = " <b>Lily</b>") -> dict[str, list[LatentExample]]:
    """Two latents a run, whose contexts hold `text`, a newline and a very long word."""
    tokens = ("Once", " upon", "\n", text, " " + "long" * 30)
    context = Context(tokens, (0.0, 0.5, 0.25, 2.0, 0.0), peak=3)
    latents = [LatentExample(n, 0.0123, 1.5, (context, context)) for n in (7, 401)]
    return {"unpenalised": latents, "penalised": latents}


def evaluation(
    content: dict[str, Any] | None = None,
    shown: Mapping[str, Sequence[LatentExample]] | None = None,
) -> RunEvaluation:
    """The content of a results.json (by default `results()`), with latents to show by run."""
    result = RunEvaluation.from_json(results() if content is None else content)
    latents = shown or {}
    runs = {
        name: replace(figures, latents=tuple(latents.get(name, ())))
        for name, figures in result.runs.items()
    }
    return replace(result, runs=runs)


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


def attribution(last_block_only: bool = False, names: tuple[str, ...] = ()) -> dict[str, Any]:
    """An attribution of the runs of `results`, or of `names`, in the schema of attribution.json."""
    names = names or ("unpenalised", "penalised")
    runs = {name: _attributed(0.01 * place) for place, name in enumerate(names)}
    if last_block_only:
        kept = ("objective", "baselines", "attention_unbounded_because", "costs", "last_block")
        runs = {name: {key: figures[key] for key in kept} for name, figures in runs.items()}
    return {"schema": 1, "model": "bundled", "model_hash": "0123456789abcdef", "runs": runs}


def _figure(mean: float) -> dict[str, Any]:
    return {"mean": mean, "ci": [mean * 0.875, mean * 1.125]}


def _attributed(more: float) -> dict[str, Any]:
    chains = [f"{mlp}, attention {a}" for mlp in ("dominant", "additive") for a in KINDS]
    neurons = [{"block": 1, "neuron": n, "per_token": 2.0 - n / 8 + more} for n in range(9)]
    pair = {"latents": [7, 1001], "coactive": 12, "per_token": 61.5 + more, "neurons": neurons[:5]}
    return {
        "objective": "reconstruction only",
        "baselines": {"log_classes": 7.625, "unigram_entropy": 5.5, "majority": 0.07},
        "attention_unbounded_because": "",
        "costs": {
            "pairs": [pair | {"by_block": {"0": 1.0, "1": 60.5 + more}}],
            "neurons": neurons,
            "per_token": 800.0,
        },
        "last_block": {
            "model": _variants(0.25 + more, (1, 8, "all")),
            "all latents": _variants(0.75 + more, (1, 8)),
        },
        "tokens": 2028,
        "sequences": 8,
        "loss": {"true": _figure(1.952), "claimed": _figure(2.5 + more)},
        "true_radius": [0.5, 0.75, 5.0, 8.0, 10.0 + more],
        "restarted": {
            f"{part} moves{truth}": [_figure(size / 8), _figure(size)]
            for part in ("attention", "MLP")
            for truth, size in (("", 128.0 + more), (" true", 4.0))
        },
        "chains": {chain: _chain(chain, more) for chain in chains},
    }


KINDS = ("measured", "bounded")


def _variants(best: float, kept: tuple[Any, ...]) -> dict[str, Any]:
    """Certified shares that grow with what is kept, up to `best`."""
    names = [f"keep {m}{centred}" for centred in ("", ", centred") for m in kept]
    found = {}
    for place, name in enumerate([*names, "additive"]):
        share = best * (place + 1) / len(names) if name != "additive" else 0.0
        found[name] = {
            "certified": _figure(share),
            "ceiling": None if "centred" in name else _figure(share),
            "unchanged": _figure(0.875),
            "terms": 512.0 * 2 ** (place % len(kept)),
            "median_bound": 12.5,
            "median_error": 2.5,
            "median_excess": None,
            "violations": 0,
        }
    return found


def _chain(name: str, more: float) -> dict[str, Any]:
    parts = [("attention error", "measured", 0.5)]
    if "bounded" in name:
        parts = [("attention moves", "propagates", 75.0), ("attention consistency", "code", 0.5)]
    parts += [("MLP moves", "propagates", 1203.0 + more), ("norm defect", "code", 2.0)]
    parts += [("interaction", "code", 28.0), ("MLP consistency", "code", 13.0)]
    stages, radius = [_stage(None, "base", "measured", 0.5, 0.5)], 0.5
    for block in range(BLOCKS):
        for part, kind, adds in parts:
            radius += adds
            stages.append(_stage(block, part, kind, adds, radius))
    return {
        "loss_bound": stages[-1]["loss_bound"],
        "vacuous": True,
        "mean_first_vacuous": next(s["stage"] for s in stages if s["loss_bound"]["mean"] >= 5.5),
        "vacuous_tokens": _figure(0.9375),
        "vacuous_by_claimed_loss": 0.125,
        "never_vacuous": 0.0625,
        "stages": stages,
        "truth": {"interaction": [_figure(6.5)] * BLOCKS, "norm_defect": [_figure(2.5)] * BLOCKS},
        "violations": 0,
    }


def _stage(block: int | None, part: str, kind: str, adds: float, radius: float) -> dict[str, Any]:
    """A step whose bound saturates at 56.25 nats."""
    return {
        "stage": part if block is None else f"blocks.{block} {part}",
        "block": block,
        "part": part,
        "kind": kind,
        "adds": _figure(adds),
        "radius": radius,
        "loss_bound": _figure(min(2.75 + radius, 56.25)),
        "first_vacuous_here": 0.0625,
    }
