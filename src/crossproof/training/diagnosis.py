"""What to say of a training step whose loss is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def diagnosis(step: int, names: Sequence[str], batch: Float[Tensor, "B places D"] | None) -> str:
    """One sentence, with the hookpoints of `names` at which the batch itself is not finite."""
    broken = [] if batch is None else (~torch.isfinite(batch).all(dim=(0, 2))).tolist()
    at = [name for name, wrong in zip(names, broken, strict=False) if wrong]
    if at:
        return (
            f"NaN or infinite activations at {', '.join(at[:3])} in training step {step}: "
            f"run the language model in float32 or drop that hookpoint."
        )
    return (
        f"The loss is not finite at training step {step}: lower the learning rate or the "
        f"penalties' strength; the last checkpoint is intact."
    )
