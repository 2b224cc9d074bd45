"""`crossproof reproduce`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError
from paper.publish import reproduce
from paper.registry import available, experiment
from paper.settings import Settings

ALL = "all"


@dataclass(frozen=True)
class Reproduce:
    """Compute the paper's figures and their controls: numbers, pictures and words of each.

    Each FIGURE is fig1 to fig13 (as numbered in the paper), ablation, anti-gaming, or all. Finished
    trainings are kept in the cache, so a second figure, or a second try, costs what is new in it.
    """

    figures: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Which figures, or all."""
    model: str = Settings.model
    """`bundled`, a local Hugging Face folder, or a Hub id."""
    text: str = Settings.text
    """`bundled`, a .txt, .jsonl, .npy or .safetensors file, or hf:NAME for a Hub dataset."""
    out: Path = Settings.out
    """Folder for FIGURE.json, FIGURE.png, FIGURE.html and FIGURE.md."""
    cache: Path = Settings.cache
    """Folder of finished trainings and evaluations."""
    quick: bool = False
    """A size that takes minutes for all figures together: to try things, not for conclusions."""
    seeds: tuple[int, ...] = Settings.seeds
    """Seeds of the trainings."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice. Equal numbers need equal thread counts."""


def run(arguments: Sequence[str], began: float) -> None:
    """Computes and writes the figures; `began` is when the process started."""
    options: Reproduce = parse(Reproduce, "reproduce", arguments)
    if not options.figures:
        raise CrossproofError(f"Name a figure, or {ALL}: {', '.join(available())}.")
    names = available() if ALL in options.figures else options.figures
    for name in names:
        experiment(name)  # an unknown name fails before anything is trained
    settings = Settings(
        model=options.model,
        text=options.text,
        out=options.out,
        cache=options.cache,
        quick=options.quick,
        seeds=options.seeds,
        threads=options.threads,
        say=lambda line: print(line, flush=True),
    )
    for name in names:
        since = time.perf_counter() if len(names) > 1 else began
        content = reproduce(name, settings)
        seconds = time.perf_counter() - since
        print(f"{name}: {content['title']}, {settings.out / name}.md, {seconds:.0f} s", flush=True)
