"""`crossproof.train`: a configuration in, trained crosscoders out; in memory or into a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from crossproof.lm.loading import load_model
from crossproof.lm.model import LanguageModel
from crossproof.training.config import RunConfig
from crossproof.training.loop import Progress, Training
from crossproof.training.result import MetricsLine, TrainedCrosscoder, TrainingResult
from crossproof.training.run import Report, prepare, start, train_run
from crossproof.training.stored import with_stored

GIVEN = "given in memory"
"""Stands in config.json for a text that was given as tokens."""


def train(
    config: RunConfig,
    out: str | Path | None = None,
    model: LanguageModel | PreTrainedModel | str | None = None,
    text: str | Int[Tensor, "S T"] | None = None,
    report: Report = lambda _: None,
) -> TrainingResult:
    """Trains the configuration's crosscoders on the same batches.

    `out` is the run folder to write, with checkpoints, metrics and the finished crosscoders;
    without it everything stays in memory. `model` and `text` replace the configuration's: a name,
    a model in memory; a source of text, or rows of tokens [S, T]. `report` is called after every
    logged step. Raises CrossproofError for a folder that holds a run, for models and texts that
    cannot be read, and if the loss stops being finite.
    """
    if isinstance(model, str):
        config, model = replace(config, model=model), None
    loaded = None if model is None else load_model(model)
    if loaded is not None:
        dtype: Any = str(loaded.dtype).removeprefix("torch.")
        config = replace(config, model=loaded.name, dtype=dtype)
    sequences = text if isinstance(text, Tensor) else None
    if text is not None:
        config = replace(config, text=text if isinstance(text, str) else GIVEN)
    config = with_stored(config)
    lines: defaultdict[str, list[MetricsLine]] = defaultdict(list)

    def log(progress: Progress) -> None:
        for name, step in progress.reports.items():
            lines[name].append(MetricsLine.of(progress.step, step))
        report(progress)

    if out is None:
        training = prepare(config, loaded, sequences)
        for progress in training.steps():
            if progress.step % config.log_every == 0 or progress.step == config.steps:
                log(progress)
        return _result(config, training, lines, None)
    run = start(config, Path(out), loaded, sequences)
    train_run(run, log)
    return _result(config, run.training, lines, run.folder)


def _result(
    config: RunConfig,
    training: Training,
    lines: Mapping[str, list[MetricsLine]],
    folder: Path | None,
) -> TrainingResult:
    runs = {
        name: TrainedCrosscoder(
            dict(trainer.objective), lines[name], folder and folder / name / "crosscoder"
        )
        for name, trainer in training.trainers.items()
    }
    crosscoders = {name: each.eval() for name, each in training.crosscoders.items()}
    result = TrainingResult(config.model, config.steps, runs, training.massive)
    return result.holding(crosscoders)
