"""results.json: the figures of a run folder, for other programs (docs/results-format.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crossproof.activations.corpus import HeldOut
from crossproof.evaluation.measure import evaluate
from crossproof.evaluation.tally import EvaluationOptions
from crossproof.lm import LanguageModel
from crossproof.training.config import RunConfig
from crossproof.training.run_folder import check_model, objective_label, run_crosscoders

SCHEMA = 1

SequenceProgress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, the sequences evaluated and their number."""


def evaluate_run(
    model: LanguageModel,
    folder: Path,
    held_out: HeldOut,
    options: EvaluationOptions,
    progress: SequenceProgress | None = None,
) -> dict[str, Any]:
    """Evaluates every crosscoder of a run on the same held-out sequences; the `runs` entry."""
    sequences = held_out.read(model)
    runs: dict[str, Any] = {}
    for name, (crosscoder, provenance) in run_crosscoders(folder).items():
        check_model(model, provenance, folder)

        def tell(done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(name, done, total)

        figures = evaluate(model, crosscoder, sequences, options, tell)
        label = {"objective": objective_label(provenance)}
        runs[name] = label | figures | {"training": dict(provenance.training)}
    return runs


def results(
    model: LanguageModel, config: RunConfig, held_out: HeldOut, runs: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The whole of results.json; of imported crosscoders nothing is said about training."""
    training = {
        "seed": config.seed,
        "steps": config.steps,
        "batch_tokens": config.batch_tokens,
        "tokens": config.steps * config.batch_tokens,
    }
    return {
        "schema": SCHEMA,
        "model": model.name,
        "model_hash": model.weights_hash,
        **(training if config.steps else {}),
        "seconds": round(seconds, 1),
        "evaluated_on": asdict(held_out),
        "runs": runs,
    }
