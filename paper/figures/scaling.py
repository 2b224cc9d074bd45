"""What figures 8 and 9 share: three objectives, their strengths, and the trade-off measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from crossproof.crosscoder import CrosscoderConfig
from crossproof.training import RunConfig
from paper.drawing.charts import Panel, Series
from paper.drawing.words import interval_over, seeds_of, shown, table
from paper.measuring.experiment import SHORT, Experiment
from paper.measuring.measurements import SeedMeasurements
from paper.measuring.objectives import RECIPE

PAPER = "paper's penalty"
OBJECTIVES: dict[str, dict[str, float]] = {
    "unpenalised": {},
    PAPER: {"interaction": 100.0},
    "recipe": RECIPE,
}
STEPS, BATCH_TOKENS = 250, 512
"""Of each training: half the other figures' tokens, because there are many trainings."""
SHOWN = {
    "keep": ("phi/keep-largest/exact_mid", "Φ keep-largest"),
    "all": ("phi/none/exact_mid", "Φ all latents"),
    "fvu": ("fvu", "FVU"),
    "share": ("dominant_share", "dominant share"),
}
"""By short name: the figure's name in results.json, and its label."""
REFERENCE = 17 * 128
"""Dimensions that the bundled model's crosscoders reconstruct, which strengths were chosen at."""


def variants(
    experiment: Experiment, sizes: Mapping[str, CrosscoderConfig]
) -> dict[tuple[str, str], RunConfig]:
    """Every objective at every size of the dictionary."""
    scale = len(experiment.model.hookpoints()) * experiment.model.d_model / REFERENCE
    return {
        (size, objective): _short(experiment, crosscoder, {k: scale * v for k, v in terms.items()})
        for size, crosscoder in sizes.items()
        for objective, terms in OBJECTIVES.items()
    }


def _short(
    experiment: Experiment, crosscoder: CrosscoderConfig, terms: Mapping[str, float]
) -> RunConfig:
    config = replace(experiment.config(**terms), crosscoder=crosscoder)
    if experiment.settings.quick:
        return config
    return replace(config, steps=STEPS, batch_tokens=BATCH_TOKENS)


def measured(
    experiment: Experiment, sizes: Mapping[str, CrosscoderConfig]
) -> dict[str, dict[str, Any]]:
    """By size and objective: the trade-off's figures with intervals, and dead latents."""
    configs = variants(experiment, sizes)
    runs = experiment.measure({f"{o}, {s}": c for (s, o), c in configs.items()}, options=SHORT)
    trade_offs: dict[str, dict[str, Any]] = {size: {} for size in sizes}
    for size, objective in configs:
        trade_offs[size][objective] = estimates(runs[f"{objective}, {size}"])
    return trade_offs


def estimates(runs: SeedMeasurements) -> dict[str, Any]:
    """The trade-off of one variant."""
    figures = {short: runs.figure(name).estimate() for short, (name, _) in SHOWN.items()}
    figures["interaction"] = runs.figure("interaction").estimate()
    return figures | {"dead": sum(runs.dead) / len(runs.dead)}


def panels(
    trade_offs: Mapping[str, Mapping[str, Any]], names: Sequence[str], kind: Literal["line", "bars"]
) -> list[Panel]:
    """A panel a figure: the sizes of `found`, under `names`, and a line or bars an objective."""
    made = []
    for short, (_, label) in SHOWN.items():
        by_objective = {o: [by[o][short] for by in trade_offs.values()] for o in OBJECTIVES}
        drawn = [series(o, names, estimates, kind) for o, estimates in by_objective.items()]
        lowest = min(low for one in drawn for low in one.low or (0.0,))
        # One interval that reaches far below zero would flatten everything else.
        limits = (max(-1.0, min(0.0, lowest)) - 0.02, 1.02) if short in ("keep", "all") else None
        made.append(Panel("", "", label, drawn, y_range=limits))
    return made


def series(
    name: str,
    x: Sequence[str],
    estimates: Sequence[Mapping[str, Any]],
    kind: Literal["line", "bars"],
) -> Series:
    """Estimates with their intervals."""
    low, high = ([e["ci"][end] for e in estimates] for end in (0, 1))
    return Series(name, x, [e["mean"] for e in estimates], low, high, kind)


def rows(label: str, trade_offs: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table, a row a size and objective."""
    head = [label, "objective", *(name for _, name in SHOWN.values()), "dead"]
    return table(
        head,
        [
            [size, objective, *(shown(figures[short]) for short in SHOWN), f"{figures['dead']:.1%}"]
            for size, by_objective in trade_offs.items()
            for objective, figures in by_objective.items()
        ],
    )


def gains(trade_offs: Mapping[str, Mapping[str, Any]]) -> str:
    """In words: what the recipe and the paper's penalty keep beside no penalty, by size."""
    parts = []
    for size, by_objective in trade_offs.items():
        keep = (by_objective[objective]["keep"]["mean"] for objective in OBJECTIVES)
        parts.append(f"{size}: {', '.join(f'{value:.2f}' for value in keep)}")
    return "; ".join(parts)


def trained(experiment: Experiment) -> dict[str, int]:
    """Steps and tokens of the trainings, which differ from the other figures'."""
    config = _short(experiment, experiment.config().crosscoder, {})
    return {"steps": config.steps, "batch_tokens": config.batch_tokens}


def size(numbers: Mapping[str, Any]) -> str:
    """How the figure's numbers were made."""
    setup, objectives = numbers["setup"], numbers["objectives"]
    return (
        f"Each crosscoder: {setup['steps']} steps of {setup['batch_tokens']} tokens, "
        f"{seeds_of(setup)}; {setup['sequences']} held-out sequences of {setup['context']} tokens, "
        f"exact resid_mid. In brackets: 95% intervals, over {interval_over(setup)}. "
        f"Paper's penalty: {terms(objectives[PAPER])}; recipe: {terms(objectives['recipe'])}; "
        f"strengths are in proportion to the dimensions reconstructed ({REFERENCE:,} for these "
        f"numbers)."
    )


def terms(objective: Mapping[str, float]) -> str:
    """Strengths in words."""
    return ", ".join(f"{name} {value:g}" for name, value in objective.items())
