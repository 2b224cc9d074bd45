"""Factors over the course of training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Rises linearly from 0 to 1 over the first `warmup` of the steps, falls over the last `decay`.

    Both are fractions of `steps`.
    """

    steps: int
    warmup: float
    decay: float

    def __call__(self, step: int) -> float:
        """The factor at `step`, counted from 0; zero once all steps are done."""
        rise = (step + 1) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return max(0.0, min(1.0, rise, fall))
