"""The command that makes the same runs again, and the facts it rests on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from crossproof.errors import CrossproofError
from crossproof.training.config import RECIPES, RunConfig, config_from_dict

FREE = ("threads", "device", "checkpoint_every", "log_every")
"""Options that a machine decides and that change no figure beyond rounding."""


def command(results: Mapping[str, Any]) -> str | None:
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


def facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, on what, and for how long; entries that are not recorded are left out."""
    integers = {"seed": "Seed", "steps": "Steps", "batch_tokens": "Tokens a step"}
    found = [("Model", str(results["model"]))] if "model" in results else []
    if "model_hash" in results:
        found.append(("Model weights (hash)", str(results["model_hash"])))
    found += [(text, f"{results[key]:,}") for key, text in integers.items() if key in results]
    if "tokens" in results:
        found.append(("Training tokens", f"{results['tokens']:,}"))
    if results.get("evaluated_on"):
        found.append(("Evaluated on", held_out(results["evaluated_on"])))
    if "seconds" in results:
        found.append(("Time", _duration(float(results["seconds"]))))
    return found


def held_out(place: Any) -> str:
    """Text and split in words, whether results.json names them or only describes them."""
    if not isinstance(place, Mapping):
        return str(place)
    parts = [str(place[key]).replace("_", "-") for key in ("text", "split") if key in place]
    if "sequences" in place and "context" in place:
        parts.append(f"up to {place['sequences']:,} sequences of {place['context']:,} tokens")
    return ", ".join(parts)


def _config(results: Mapping[str, Any]) -> RunConfig | None:
    """The configuration of the penalised run, which its comparison was trained with."""
    recorded = [run["training"] for run in results.get("runs", {}).values() if "training" in run]
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
    before, after, words = dict(_flat(asdict(recipe))), dict(_flat(asdict(config))), []
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


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
