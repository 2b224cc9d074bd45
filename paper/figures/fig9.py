"""Figure 9: the trade-off over sizes and families of language models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from crossproof.crosscoder import CrosscoderConfig
from crossproof.lm import LanguageModel
from paper.drawing.charts import Chart
from paper.drawing.words import table
from paper.figures import scaling
from paper.measuring.experiment import Experiment
from paper.measuring.settings import FigureSettings
from paper.toys import zoo

TITLE = "Figure 9: size and family of the language model"
ZOO = (
    zoo.SmallModelConfig("gpt_neo", 32, 2),
    *(zoo.SmallModelConfig(family, 64, 2) for family in zoo.FAMILIES),
)
QUICK_ZOO = tuple(
    zoo.SmallModelConfig(family, d_model=16, blocks=2, heads=2, steps=20, batch=4, context=64)
    for family in zoo.FAMILIES
)
LATENTS_PER_DIMENSION, DIMENSIONS_PER_ACTIVE = 4, 8
"""H = 4 d_model and k = d_model / 8, so that every dictionary is as wide and as sparse."""


def compute(settings: FigureSettings) -> dict[str, Any]:
    """Φ, FVU and dominant share on models trained for it, and on the settings' own model."""
    first = Experiment.open(settings)
    loss = zoo.loss(first.model, settings.text)
    experiments, models = {settings.model: first}, {settings.model: described(first.model, loss)}
    for recipe in QUICK_ZOO if settings.quick else ZOO:
        folder = zoo.folder(recipe, first.model, settings.text, first.cache, settings.say)
        experiment = experiments[recipe.name] = Experiment.open(
            replace(settings, model=str(folder))
        )
        training = zoo.training(folder)
        models[recipe.name] = described(experiment.model, training["held_out_loss"]) | training
    return {
        "setup": first.setup() | scaling.trained(first),
        "objectives": scaling.OBJECTIVES,
        "models": models,
        "found": {name: measured(name, experiment) for name, experiment in experiments.items()},
    }


def described(model: LanguageModel, loss: float) -> dict[str, Any]:
    """Size and held-out loss of a model, and the size of its dictionaries."""
    return {
        "d_model": model.d_model,
        "blocks": model.n_blocks,
        "parameters": model.n_parameters,
        "gated": model.mlp(0).gated,
        "hookpoints": len(model.hookpoints()),
        "held_out_loss": loss,
        **asdict(dictionary(model)),
    }


def dictionary(model: LanguageModel) -> CrosscoderConfig:
    """A dictionary in proportion to the model's width."""
    k = max(1, model.d_model // DIMENSIONS_PER_ACTIVE)
    return CrosscoderConfig(n_latents=LATENTS_PER_DIMENSION * model.d_model, k=k)


def measured(name: str, experiment: Experiment) -> dict[str, Any]:
    """The trade-off on one model."""
    return scaling.measured(experiment, {name: dictionary(experiment.model)})[name]


def charts(numbers: Mapping[str, Any]) -> dict[str, Chart]:
    """Bars of every model, a panel a figure."""
    trade_offs = numbers["found"]
    names = [name.replace(" ", "\n") for name in trade_offs]
    panels = scaling.panels(trade_offs, names, "bars")
    return {"main": Chart("Trade-off by language model", panels, columns=1)}


def words(numbers: Mapping[str, Any]) -> str:
    """The models, the trade-off on each, and what the objectives gain."""
    trade_offs, models = numbers["found"], numbers["models"]
    head = ["model", "parameters", "MLPs", "held-out loss", "H", "k"]
    lines = [
        [
            name,
            f"{one['parameters']:,}",
            "gated" if one["gated"] else "plain",
            f"{one['held_out_loss']:.3f}",
            f"{one['n_latents']:,}",
            str(one["k"]),
        ]
        for name, one in models.items()
    ]
    bundled = numbers["setup"]["text"] == "bundled"
    floor = " (the text was sampled from the bundled model: none can do better)" if bundled else ""
    tokens = {one["tokens"] for one in models.values() if "tokens" in one}
    return "\n\n".join(
        [
            f"{scaling.size(numbers)} The models but the first were trained for this "
            f"figure, each on {' or '.join(f'{n:,}' for n in sorted(tokens))} tokens of the same "
            f"text: they are small because the machine is. In a name: d_model x blocks.",
            f"Held-out loss in nats per token, one seed a model{floor}:",
            table(head, lines),
            f"Φ of the dominant latent alone (no penalty, the paper's penalty, the recipe): "
            f"{scaling.gains(trade_offs)}.",
            scaling.rows("model", trade_offs),
        ]
    )
