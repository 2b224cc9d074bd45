"""How a GPU may round the factors of the float32 matrix products of a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def rounded_products(asked: bool) -> Iterator[None]:
    """Inside, float32 products may round their factors to TF32's 10 bits, if `asked`.

    Virtual weights of all latents and their gradients are most of a penalised step's operations: an
    H100's matrix units do eight times as many a second in TF32, and still add up in float32.
    """
    before = torch.get_float32_matmul_precision()
    if asked:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
