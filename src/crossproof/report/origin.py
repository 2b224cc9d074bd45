"""The command that makes the same runs again, and the facts it rests on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields, replace

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.evaluation.results import RunEvaluation
from crossproof.training.config import RECIPES, Optimisation, RunConfig, config_from_dict
from crossproof.training.objective import Objective

FREE = ("threads", "device", "checkpoint_every", "log_every")
"""Options that a machine decides and that change no figure beyond rounding."""


def command(results: RunEvaluation) -> str | None:
    """The shell command, from the recipe that needs the fewest changes; None without a record."""
    config = _config(results)
    if config is None:
        return None
    if not _changes(RECIPES["demo"], replace(config, seed=RECIPES["demo"].seed)):
        return shlex.join(["crossproof", "demo", "--seed", str(config.seed)])
    changes = {name: _changes(recipe, config) for name, recipe in RECIPES.items()}
    recipe = min(changes, key=lambda name: len(changes[name]))
    words = ["crossproof", "train", "--recipe", recipe, "--out", "runs/again"]
    return shlex.join([*words, *changes[recipe]])


def facts(results: RunEvaluation) -> list[tuple[str, str]]:
    """What was run, on what, and for how long; entries that are not recorded are left out."""
    rows = [("Model", results.model)]
    if results.model_hash:
        rows.append(("Model weights (hash)", results.model_hash))
    counts = {"Seed": results.seed, "Steps": results.steps, "Tokens a step": results.batch_tokens}
    counts["Training tokens"] = results.tokens
    rows += [(label, f"{value:,}") for label, value in counts.items() if value is not None]
    if results.evaluated_on is not None:
        rows.append(("Evaluated on", held_out(results.evaluated_on)))
    if results.seconds is not None:
        rows.append(("Time", _duration(results.seconds)))
    return rows


def held_out(text: TextSlice) -> str:
    """Text and split in words."""
    return (
        f"{text.text}, {text.split.replace('_', '-')}, up to {text.sequences:,} sequences of "
        f"{text.context:,} tokens"
    )


def _config(results: RunEvaluation) -> RunConfig | None:
    """The configuration of the penalised run, which its comparison was trained with."""
    recorded = [run.training for run in results.runs.values() if run.training is not None]
    recorded = [training for training in recorded if "imported" not in training]
    configs = []
    for training in recorded:
        try:
            configs.append(config_from_dict(dict(training)))
        except CrossproofError:  # trained elsewhere: there is no command of ours for it
            continue
    return max(configs, key=lambda config: config.penalised, default=None)


def _changes(recipe: RunConfig, config: RunConfig) -> list[str]:
    """The options that turn a recipe into `config`."""
    before, after, words = dict(_options(recipe)), dict(_options(config)), []
    for name in dict.fromkeys([*before, *after]):  # either may lack terms of the objective
        value = after[name] if name in after else getattr(config.objective, name)
        if name in FREE or value == before.get(name):
            continue
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, tuple | list):
            words += [f"--{option}", *map(str, value)]
        else:
            words += [f"--{option}", str(value)]
    return words


def _options(config: RunConfig | CrosscoderConfig | Optimisation) -> Iterator[tuple[str, object]]:
    """Every option by its name, those of parts and the terms of the objective among them."""
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, CrosscoderConfig | Optimisation):
            yield from _options(value)
        elif isinstance(value, Objective):
            yield from value.items()
        else:
            yield field.name, value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
