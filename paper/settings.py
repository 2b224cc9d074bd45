"""What a figure is made from: the options of `crossproof reproduce`, and the two sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Options that every figure shares."""

    model: str = "bundled"
    """`bundled`, a local Hugging Face folder, or a Hub id."""
    text: str = "bundled"
    """`bundled`, a .txt, .jsonl, .npy or .safetensors file, or hf:NAME for a Hub dataset."""
    out: Path = Path("results")
    """Folder for numbers, pictures and words."""
    cache: Path = Path("runs/cache")
    """Folder of finished trainings and evaluations; safe to delete, and to share between runs."""
    quick: bool = False
    """A size that takes minutes for all figures together, to try things; not for conclusions."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the trainings."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice. Equal numbers need equal thread counts."""
    say: Callable[[str], None] = print
    """Gets progress lines."""

    @property
    def size(self) -> Size:
        """How large trainings and evaluations are."""
        return QUICK if self.quick else PUBLISHED


@dataclass(frozen=True)
class Size:
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


PUBLISHED = Size(512, 16, 200, 1024, 256, 16, 480)
QUICK = Size(128, 8, 12, 256, 64, 4, 480)
