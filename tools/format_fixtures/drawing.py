"""What every fixture is drawn with, and what is kept of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D, WIDTH, TOKENS, LAYERS = 16, 24, 12, 2
K = 4


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def randomise(module: Any, seed: int = 0) -> None:
    """Random parameters; thresholds positive, and low enough that latents fire."""
    for i, (name, parameter) in enumerate(sorted(module.named_parameters())):
        values = 0.4 * draw(*parameter.shape, seed=100 * seed + i)
        parameter.copy_(values.abs() + 0.1 if "threshold" in name else values)


def record(folder: Path, x: Tensor, code: Tensor, reconstruction: Tensor) -> None:
    shares = (code != 0).float().mean()
    assert 0.05 < shares < 0.95, f"{folder.name}: {shares:.0%} of the latents are active"
    tensors = {"x": x, "code": code, "reconstruction": reconstruction}
    save_file(
        {name: t.detach().float().contiguous() for name, t in tensors.items()},
        folder / "expected.safetensors",
    )


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
