"""Several crosscoders trained in memory on the same batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.lm.model import LanguageModel
from crossproof.training.config import RunConfig
from crossproof.training.loop import Training
from crossproof.training.memory import INITIAL_BATCHES

EVERY = 50
"""Steps between progress lines."""


def train_together(
    model: LanguageModel,
    sequences: Int[Tensor, "S T"],
    configs: Mapping[str, RunConfig],
    say: Callable[[str], None] = lambda _: None,
    initial_batches: int = INITIAL_BATCHES,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Crosscoder]:
    """Trains a crosscoder for each configuration's objective; the finished ones by name.

    `sequences` [S, T] are the training split. Each crosscoder is what `crossproof train` makes of
    its configuration, whatever trains beside it. `tell` gets the steps done and their number after
    each; where there is none, `say` a line now and then. Raises CrossproofError as
    `Training.build`.
    """
    training = Training.build(model, sequences, configs, initial_batches)
    for progress in training.steps():
        if tell is not None:
            tell(progress.step, progress.steps)
        elif progress.step % EVERY == 0 or progress.step == progress.steps:
            say(
                f"seed {training.config.seed}, {len(configs)} crosscoders: step {progress.step} "
                f"of {progress.steps}, {progress.seconds_left:.0f} s left"
            )
    return {name: crosscoder.eval() for name, crosscoder in training.crosscoders.items()}
