"""Evaluating the crosscoders of a run folder: what `crossproof evaluate` writes down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.encode import for_figures
from crossproof.crosscoder.side_by_side import side_by_side
from crossproof.evaluation.evaluating import tally_sequences
from crossproof.evaluation.measure_run import TOGETHER, named_crosscoders
from crossproof.evaluation.results import RunEvaluation
from crossproof.evaluation.summary import summarise
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
    slices: Path | None = None,
) -> RunEvaluation:
    """Evaluates every crosscoder of a run on the same sequences, in `slices` as `tally_sequences`.

    `config` is what they were trained with; of imported crosscoders (no steps) nothing is said
    about training. Raises CrossproofError if there is none, or one explains another model.
    """
    sequences, run = text.read(model), RunFolder.open(folder)
    runs = {}
    known: dict[Any, Mapping[str, NDArray[np.float64]]] = {}
    for name, crosscoder in run.crosscoders(model).items():
        tell = None if progress is None else partial(progress, name)
        crosscoder = for_figures(crosscoder)
        alike = crosscoder.hookpoints.names, crosscoder.written, crosscoder.positions
        kept = slices and slices / name.replace("/", "-")
        sums = known.get(alike)
        tally = tally_sequences(model, crosscoder, sequences, options, tell, sums, kept)
        known[alike] = tally.shared()
        figures = summarise(model, crosscoder, tally, options)
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


def evaluate_together(
    model: LanguageModel,
    folders: list[Path],
    text: TextSlice,
    options: EvaluationOptions,
    progress: SequenceProgress | None = None,
    slices: Path | None = None,
) -> RunEvaluation:
    """Evaluates all dictionaries of run folders as one: their latents stand side by side.

    Raises CrossproofError as `side_by_side`, or if a dictionary explains another model.
    """
    sequences, dictionaries = text.read(model), named_crosscoders(model, folders)
    joined = for_figures(side_by_side(model, dictionaries))
    tell = None if progress is None else partial(progress, TOGETHER)
    tally = tally_sequences(model, joined, sequences, options, tell, slices=slices)
    figures = summarise(model, joined, tally, options)
    figures = replace(figures, objective=f"{len(dictionaries)} dictionaries side by side")
    runs = {TOGETHER: figures}
    return RunEvaluation(
        model=model.name, model_hash=model.weights_hash, evaluated_on=text, runs=runs
    )
