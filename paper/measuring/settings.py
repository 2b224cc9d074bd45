"""What a figure is made from: the options of `python -m paper`, and the two sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


def say(line: str) -> None:
    """Prints a line of progress at once."""
    print(line, flush=True)


@dataclass(frozen=True)
class FigureSettings:
    """Options that every figure shares."""

    model: str = "bundled"
    """`bundled`, a local Hugging Face folder, or a Hub id."""
    text: str = "bundled"
    """`bundled`, a .txt, .jsonl, .npy or .safetensors file, or hf:NAME for a Hub dataset."""
    out: Path = Path("results")
    """Folder for FIGURE.json, FIGURE.png, FIGURE.html and FIGURE.md."""
    cache: Path = Path("runs/cache")
    """Folder of finished trainings and evaluations; safe to delete, and to share between runs."""
    quick: bool = False
    """A size that takes minutes for all figures together, to try things; not for conclusions."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice. Equal numbers need equal thread counts."""
    say: Annotated[Callable[[str], None], tyro.conf.Suppress] = say
    """Gets progress lines."""

    @property
    def size(self) -> ExperimentSize:
        """How large trainings and evaluations are."""
        return QUICK if self.quick else PUBLISHED


@dataclass(frozen=True)
class ExperimentSize:
    """Of each training and evaluation, unless a figure says otherwise."""

    n_latents: int
    k: int
    steps: int
    batch_tokens: int
    context: int
    sequences: int
    """Sequences of the validation or held-out split."""
    skip: int
    """Held-out sequences of the bundled text passed over, as recipes were judged on them."""


PUBLISHED = ExperimentSize(512, 16, 200, 1024, 256, 16, 480)
QUICK = ExperimentSize(128, 8, 12, 256, 64, 4, 480)
