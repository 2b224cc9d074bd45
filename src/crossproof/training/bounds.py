"""What numbers nothing can be trained with are refused."""

from __future__ import annotations

import sys

from crossproof.errors import CrossproofError
from crossproof.training.config import RunConfig

_FRACTION, _COUNT, _LARGEST = (0.0, 1.0), (1.0, sys.float_info.max), sys.float_info.max
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("warmup", "decay", "penalty_warmup", "penalty_delay", "text_delay"), _FRACTION
    ),
    **dict.fromkeys(("beta1", "beta2"), (0.0, 1 - sys.float_info.epsilon)),
    **dict.fromkeys(("n_latents", "k", "groups", "batch_tokens", "buffer_batches"), _COUNT),
    **dict.fromkeys(("checkpoint_every", "log_every", "skip_first"), _COUNT),
    "penalty_fraction": _FRACTION,
}
"""What numbers may be; others are at least zero, and finite."""


def check_settings(config: RunConfig) -> None:
    """Raises CrossproofError naming a number that nothing can be trained with."""
    settings = vars(config) | vars(config.crosscoder) | vars(config.optimisation)
    for name, value in settings.items():
        low, high = _BOUNDS.get(name, (0, _LARGEST))
        if isinstance(value, int | float) and not low <= value <= high:
            most = f" and at most {high:g}" if high <= 1 else ""
            raise CrossproofError(f"{name} is {value}; it must be finite, at least {low:g}{most}.")
