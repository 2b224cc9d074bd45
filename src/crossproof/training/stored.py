"""What stored activations have decided of a training's settings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossproof.activations.store import read_index
from crossproof.errors import CrossproofError
from crossproof.training.config import PLACES, RunConfig

_BUFFER = ("buffer_batches", "buffer_tokens")
DECIDED = ("text", "rows", "context", "skip_first", "drop_outliers", "dtype", *_BUFFER)
"""Settings that a store has decided."""
USUAL = ("model", "batch_tokens")
"""Settings that are the store's if nobody gives others: another path to the same model, and batches
of another size."""
SETTINGS = (*DECIDED, *USUAL)


def with_stored(config: RunConfig, given: Collection[str] = ()) -> RunConfig:
    """The configuration with what its stored activations have decided: text, positions, precision.

    Model and tokens a step are the store's unless they are `given`, or are not the usual ones;
    hookpoints, too, where none are named. Raises CrossproofError if there are no such activations,
    or a setting contradicts them.
    """
    if not config.activations:
        return config
    settings, usual = _settings(config.activations), RunConfig()
    chosen: dict[str, Any] = {}
    for name in SETTINGS:
        mine, theirs = getattr(config, name), settings[name]
        if mine == getattr(usual, name) and name not in given:
            chosen[name] = theirs
        elif mine != theirs and name in DECIDED:
            raise CrossproofError(
                f"--{name.replace('_', '-')} is {mine}, and {config.activations} was harvested "
                f"with {theirs}: leave it out, or harvest again."
            )
    if not (config.hookpoints or config.read or config.write):
        chosen |= {name: tuple(settings[name]) for name in PLACES if name != "start"}
    return replace(config, **chosen)


def _settings(folder: str) -> dict[str, Any]:
    index = read_index(Path(folder))
    settings = index.get("settings")
    wanted = (*SETTINGS, *PLACES)
    if not isinstance(settings, dict) or any(name not in settings for name in wanted):
        raise CrossproofError(f"The index of {folder} is damaged: restore it, or harvest again.")
    return settings
