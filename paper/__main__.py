"""The command line `python -m paper FIGURE ...`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from crossproof import CrossproofError
from paper.measuring.settings import FigureSettings
from paper.publish import reproduce
from paper.registry import available, figure_module

ALL = "all"


@dataclass(frozen=True)
class Reproduce:
    """Compute the paper's figures and their controls: numbers, pictures and words of each.

    Each FIGURE is fig1 to fig13 (as numbered in the paper), ablation, anti-gaming, or all. Finished
    trainings are kept in the cache, so a second figure, or a second try, costs what is new in it.
    """

    figures: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Which figures, or all."""
    settings: FigureSettings = field(default_factory=FigureSettings)


def run(options: Reproduce) -> None:
    """Computes and writes the figures. Raises CrossproofError for bad input."""
    if not options.figures:
        raise CrossproofError(f"Name a figure, or {ALL}: {', '.join(available())}.")
    names = available() if ALL in options.figures else options.figures
    for name in names:
        figure_module(name)  # an unknown name fails before anything is trained
    for name in names:
        began = time.perf_counter()
        content = reproduce(name, options.settings)
        page, seconds = options.settings.out / f"{name}.md", time.perf_counter() - began
        options.settings.say(f"{name}: {content['title']}, {page}, {seconds:.0f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exits 0; 1 with one sentence for bad input; 130 when stopped by Ctrl-C."""
    flat = (tyro.conf.OmitArgPrefixes,)
    options = tyro.cli(Reproduce, args=arguments, prog="python -m paper", config=flat)
    try:
        run(options)
    except CrossproofError as error:
        sys.exit(f"paper: {error}")
    except KeyboardInterrupt:
        print("paper: stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
