"""Figure 10: crosscoders on a network that adds modulo 113, and the frequencies they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from crossproof.activations import read_sequences
from crossproof.evaluation import EvaluationOptions, tally_sequences
from crossproof.training import RunConfig
from paper.drawing.charts import Chart, Panel, Series
from paper.drawing.words import decimals, seeds_of, shown, table, written
from paper.figures import scaling
from paper.measuring.cache import ResultCache
from paper.measuring.experiment import Experiment
from paper.measuring.measurements import Measured, SeedMeasurements
from paper.measuring.settings import FigureSettings
from paper.toys import modular_network as network
from paper.toys.modular_latents import HOOKPOINTS, KEY, MLP_IN, OWN, RANDOM, ModularNetwork

TITLE = "Figure 10: a network that adds modulo 113"
QUICK_NETWORK = network.ModularNetworkConfig(p=23, d_model=32, neurons=64, steps=300, batch=256)
OBJECTIVES = scaling.OBJECTIVES | {"ten times the paper's": {"interaction": 1000.0}}
STEPS = 250
PAIRS = 2048
"""Held-out pairs that crosscoders are measured on."""
OPTIONS = EvaluationOptions(
    batch_sequences=512, schemes=("none", "keep-largest"), mids=("exact_mid",)
)
FIGURES = {
    "ce_recovered": "CE recovered",
    "phi/keep-largest/exact_mid": "Φ keep-largest",
    "phi/none/exact_mid": "Φ all latents",
    "dominant_share": "dominant share",
    "fvu": "FVU",
    "interaction": "I",
}
FOURIER = {
    "read_top": "top share, read",
    "written_top": "top share, written",
    "read_own": "latents of one frequency",
    "keys_owned": "key frequencies owned",
}


@dataclass(frozen=True, eq=False)
class MeasuredNetwork:
    """One network, the crosscoders trained on it, and what was measured."""

    training: dict[str, Any]
    keys: list[int]
    config: RunConfig
    measured: dict[str, Measured]
    structure: dict[str, dict[str, Any]]


def compute(settings: FigureSettings) -> dict[str, Any]:
    """A network a seed, and on each a crosscoder an objective; the settings' model is not used."""
    seeds = [one_seed(replace(settings, seeds=(seed,))) for seed in settings.seeds]
    config, place = seeds[0].config, HOOKPOINTS.index(MLP_IN)
    figures = {}
    for name in OBJECTIVES:
        runs = SeedMeasurements(tuple(seed.measured[name] for seed in seeds), (place,))
        figures[name] = {short: runs.figure(short).estimate() for short in FIGURES}
    return {
        "seeds": list(settings.seeds),
        "quick": settings.quick,
        "objectives": OBJECTIVES,
        "scale": scale(),
        "crosscoder": asdict(config.crosscoder),
        "steps": config.steps,
        "batch_tokens": config.batch_tokens,
        "hookpoints": list(HOOKPOINTS),
        "pairs": len(seeds[0].measured[scaling.PAPER].sums["tokens"]),
        "networks": [seed.training | {"key_frequencies": seed.keys} for seed in seeds],
        "figures": figures,
        "structure": [seed.structure for seed in seeds],
    }


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """The trade-off, and the frequencies of latents."""
    return {"main": trade_off(numbers["figures"]), "fourier": fourier(numbers)}


def one_seed(settings: FigureSettings) -> MeasuredNetwork:
    """The network and the crosscoders of the settings' only seed."""
    (seed,) = settings.seeds
    recipe = replace(QUICK_NETWORK if settings.quick else network.ModularNetworkConfig(), seed=seed)
    write = partial(network.save, recipe=recipe, say=settings.say)
    folder = ResultCache(settings.cache).get("modular-network", asdict(recipe), write)
    experiment = Experiment.open(
        replace(settings, model=str(folder), text=str(folder / network.TOKENS))
    )
    variants = configs(experiment)
    crosscoders = {name: found[0] for name, found in experiment.crosscoders(variants).items()}
    rows = read_sequences(
        experiment.settings.text, experiment.model, experiment.model.context, "held_out"
    )[:PAIRS]
    measured, known = {}, ModularNetwork.of(experiment.model)
    structure = {"neurons": known.neurons()}
    for name, crosscoder in crosscoders.items():
        tally = tally_sequences(experiment.model, crosscoder, rows, OPTIONS)
        measured[name] = Measured.of(tally)
        structure[name] = known.latents(crosscoder)
    for name, crosscoder in known.untrained(crosscoders[scaling.PAPER], seed).items():
        structure[name] = known.latents(crosscoder)
    described = {name: one.describe(known.key_frequencies) for name, one in structure.items()}
    config = variants[scaling.PAPER]
    return MeasuredNetwork(
        network.training(folder), known.key_frequencies, config, measured, described
    )


def configs(experiment: Experiment) -> dict[str, RunConfig]:
    """The objectives, at strengths in proportion to the dimensions reconstructed."""
    made = {}
    for name, terms in OBJECTIVES.items():
        config = experiment.config(**{term: scale() * value for term, value in terms.items()})
        steps = config.steps if experiment.settings.quick else STEPS
        made[name] = replace(config, hookpoints=HOOKPOINTS, steps=steps)
    return made


def scale() -> float:
    """Of the strengths: this network's dimensions beside the bundled model's."""
    return len(HOOKPOINTS) * network.ModularNetworkConfig().d_model / scaling.REFERENCE


def trade_off(figures: Mapping[str, Any]) -> Chart:
    """Bars: loss recovered, Φ, dominant share and FVU by objective."""
    shares = {short: label for short, label in FIGURES.items() if short != "interaction"}
    bars = [
        scaling.series(name, list(shares.values()), [entry[short] for short in shares], "bars")
        for name, entry in figures.items()
    ]
    return Chart("Crosscoders on modular addition", [Panel("", "", "", bars)], columns=1)


def fourier(numbers: Mapping[str, Any]) -> Chart:
    """Quantiles of latents' top shares, and the shares by frequency of the first network."""
    first, keys = numbers["structure"][0], numbers["networks"][0]["key_frequencies"]
    count = len(first["neurons"]["read_by_frequency"])
    frequencies = [float(k) for k in range(1, count + 1)]
    quantiles, spectra = [], []
    for name, entry in first.items():
        x = [q / (len(entry["read_quantiles"]) - 1) for q in range(len(entry["read_quantiles"]))]
        quantiles.append(Series(name, x, entry["read_quantiles"]))
        spectra.append(Series(name, frequencies, entry["read_by_frequency"]))
    label = f"key frequencies {', '.join(map(str, keys))}"
    panels = [
        Panel("", "quantile of latents", "share of the top frequency", quantiles),
        Panel(label, "frequency", "mean share of latents", spectra),
    ]
    return Chart("Frequencies of latents, first network", panels, columns=1)


def words(numbers: Mapping[str, Any]) -> str:
    """The networks, the trade-off and the Fourier structure, in tables."""
    networks, figures = numbers["networks"], numbers["figures"]
    accuracy = [one["held_out"]["accuracy"] for one in networks]
    keys = "; ".join(", ".join(map(str, one["key_frequencies"])) for one in networks)
    recipe = networks[0]["recipe"]
    rows = [[name, *(shown(entry[short]) for short in FIGURES)] for name, entry in figures.items()]
    strengths = "; ".join(f"{o}: {scaling.terms(t)}" for o, t in numbers["objectives"].items() if t)
    return "\n\n".join(
        [
            f"One-layer transformers (GPT-Neo: with layer norms; d_model {recipe['d_model']}, "
            f"{recipe['neurons']} ReLU neurons, {seeds_of(numbers)}) "
            f"that add modulo {recipe['p']}, trained on {recipe['train_share']:.0%} of the pairs: "
            f"accuracy on the others {', '.join(f'{value:.1%}' for value in accuracy)}. A "
            f"crosscoder a network and objective: H = {numbers['crosscoder']['n_latents']}, "
            f"k = {numbers['crosscoder']['k']}, {numbers['steps']} steps of "
            f"{numbers['batch_tokens']:,} tokens at '=' of training pairs, at resid_mid, MLP input "
            f"and resid_post; measured on {numbers['pairs']:,} held-out pairs. In brackets: 95% "
            f"intervals over networks and pairs. Strengths, all times {numbers['scale']:.3f} (this "
            f"network's dimensions beside the bundled model's): {strengths}.",
            table(["objective", *FIGURES.values()], rows),
            f"Frequencies. A latent's top share is that of its variance at one frequency: read, of "
            f"its activation over all pairs; written, of its decoder vector through the output "
            f"layer. A latent is of one frequency if it reads {OWN:.0%} or more there. Key "
            f"frequencies, with more than {KEY:.0%} of the output layer's power: {keys}. Means "
            f"over networks, least and greatest in brackets; the last two rows are dictionaries "
            f"of no training.",
            structure_table(numbers),
            _finding(numbers),
        ]
    )


def _finding(numbers: Mapping[str, Any]) -> str:
    """What keeping one latent is worth, and whether latents are frequencies."""
    keep = "phi/keep-largest/exact_mid"
    kept = {o: entry[keep]["mean"] for o, entry in numbers["figures"].items()}
    values = "; ".join(f"{objective}: {value:.2f}" for objective, value in kept.items())
    top = {
        name: sum(one[name]["read_top"] for one in numbers["structure"]) / len(numbers["structure"])
        for name in ("neurons", "unpenalised", "recipe", RANDOM)
    }
    shares = "; ".join(f"{name}: {value:.2f}" for name, value in top.items())
    return (
        f"Φ of the dominant latent alone: {values}. Top shares of what is read: {shares}. Where "
        f"latents have no more than random directions, they are not the network's frequencies: "
        f"with k of H latents active, each is active on a small part of the pairs, and a function "
        f"that is confined to a part of them has many frequencies."
    )


def structure_table(numbers: Mapping[str, Any]) -> str:
    """Means over networks, with least and greatest."""
    rows = []
    for name in numbers["structure"][0]:
        cells = [name]
        for short in FOURIER:
            values = [one[name][short] for one in numbers["structure"]]
            mean = sum(values) / len(values)
            cells.append(written(mean, (min(values), max(values)), decimals(2)))
        rows.append(cells)
    return table(["", *FOURIER.values()], rows)
