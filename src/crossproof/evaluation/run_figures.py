"""Evaluating the crosscoders of a run folder: what `crossproof evaluate` writes down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from crossproof.activations.corpus import TextSlice
from crossproof.evaluation.evaluating import evaluate
from crossproof.evaluation.results import RunEvaluation
from crossproof.evaluation.tally import EvaluationOptions
from crossproof.lm import LanguageModel
from crossproof.training.config import RunConfig
from crossproof.training.run_folder import RunFolder, objective_label

SequenceProgress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, the sequences evaluated and their number."""


def evaluate_run(
    model: LanguageModel,
    folder: Path,
    config: RunConfig,
    text: TextSlice,
    options: EvaluationOptions,
    progress: SequenceProgress | None = None,
) -> RunEvaluation:
    """Evaluates every crosscoder of a run on the same sequences.

    `config` is what they were trained with; of imported crosscoders (no steps) nothing is said
    about training. Raises CrossproofError if there is none, or one explains another model.
    """
    sequences, run = text.read(model), RunFolder.open(folder)
    runs = {}
    for name, crosscoder in run.crosscoders(model).items():
        tell = None if progress is None else partial(progress, name)
        figures = evaluate(model, crosscoder, sequences, options, tell)
        provenance = run.provenance(name)
        runs[name] = replace(
            figures, objective=objective_label(provenance), training=dict(provenance.training)
        )
    result = RunEvaluation(
        model=model.name,
        model_hash=model.weights_hash,
        evaluated_on=replace(text, sequences=len(sequences)),
        runs=runs,
    )
    if not config.steps:
        return result
    return replace(
        result,
        seed=config.seed,
        steps=config.steps,
        batch_tokens=config.batch_tokens,
        tokens=config.steps * config.batch_tokens,
    )
