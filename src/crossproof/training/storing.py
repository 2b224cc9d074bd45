"""Harvesting what a training would read into a store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from crossproof.activations.config import StoredDtype
from crossproof.activations.corpus import fitting_context, open_rows
from crossproof.activations.store import check_space, stored_bytes, write_store
from crossproof.errors import CrossproofError
from crossproof.lm import LanguageModel
from crossproof.training.bounds import check_settings
from crossproof.training.config import PLACES, RunConfig
from crossproof.training.memory import INITIAL_BATCHES
from crossproof.training.reading import harvest_for
from crossproof.training.specs import specified_all
from crossproof.training.stored import SETTINGS


def harvest_to(
    folder: Path,
    config: RunConfig,
    model: LanguageModel,
    dtype: StoredDtype = "bfloat16",
    say: Callable[[str], None] = lambda _: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Stores the batches that training `config` would read, hookpoints and streams of all its
    dictionaries, in the order of its seed; goes on with what a stopped call has left.

    `say` gets the size before anything is written. Raises CrossproofError as `write_store` and
    `Training.build` do.
    """
    check_settings(config)
    if config.activations:
        raise CrossproofError(
            "Stored activations are not stored again: leave out --activations.", code="CP-OPTION"
        )
    specs = specified_all(model, config.members())
    context = fitting_context(config.context, model)
    rows = open_rows(config.text, model, context, "train", config.rows)
    harvest, massive = harvest_for(model, rows, config, specs, config.batch_tokens)
    batches = max(config.steps, min(INITIAL_BATCHES, len(harvest)))
    size = stored_bytes(harvest, batches, dtype)
    say(
        f"{batches:,} batches of {config.batch_tokens:,} tokens at {len(harvest.names)} "
        f"hookpoints in {dtype}: {size:,} bytes."
    )
    check_space(folder, size)
    settings = {name: getattr(config, name) for name in (*SETTINGS, *PLACES, "seed")}
    origin = {
        "settings": {n: list(v) if isinstance(v, tuple) else v for n, v in settings.items()},
        "massive": [asdict(each) for each in massive],
    }
    write_store(harvest, folder, batches, dtype, origin, tell)
