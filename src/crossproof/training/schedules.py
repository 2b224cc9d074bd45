"""Factors over the course of training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Is 0 for `delay`, rises linearly to 1 over `warmup`, falls to 0 over the last `decay`.

    All three are fractions of `steps`.
    """

    steps: int
    warmup: float
    decay: float
    delay: float = 0.0

    def __call__(self, step: int) -> float:
        """The factor at `step`, counted from 0; zero once all steps are done."""
        rise = (step + 1 - self.delay * self.steps) / max(1.0, self.warmup * self.steps)
        fall = (self.steps - step) / max(1.0, self.decay * self.steps)
        return max(0.0, min(1.0, rise, fall))
