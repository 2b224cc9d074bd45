"""What train, demo and evaluate have in common: training to the end, figures and page."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path

from crossproof.activations.corpus import HeldOut
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions
from crossproof.evaluation.run_figures import evaluate_run, results
from crossproof.files import write_json
from crossproof.lm import LanguageModel
from crossproof.report import report_run
from crossproof.report.terminal import console, evaluation_display, results_table, training_display
from crossproof.training import distributed
from crossproof.training.config import RunConfig
from crossproof.training.run import Interrupted, Run, train_run


def train_to_the_end(prepared: Run) -> None:
    """Trains with a live display; exits with 130 after Ctrl-C, the checkpoint saved."""
    first = distributed.rank() == 0
    display = training_display(prepared.config.steps, prepared.training.step)
    try:
        with display if first else nullcontext(lambda _: None) as report:
            train_run(prepared, report)
    except Interrupted as stopped:
        if first:
            print(
                f"crossproof: stopped after step {stopped.step}; go on with "
                f"`crossproof train --resume --out {prepared.folder}`.",
                file=sys.stderr,
            )
        sys.exit(130)


def finish(
    model: LanguageModel,
    config: RunConfig,
    folder: Path,
    output: Path,
    held_out: HeldOut,
    began: float,
    seed: int = 0,
) -> Path:
    """Evaluates, prints the table, writes results.json and report.html; returns the page."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {output} ({error.strerror}): choose a writable folder."
        ) from error
    with evaluation_display() as progress:
        runs = evaluate_run(model, folder, held_out, EvaluationOptions(seed=seed), progress)
    console.print(results_table(runs))
    content = results(model, config, held_out, runs, time.perf_counter() - began)
    page = report_run(model, folder, output, content)
    content["seconds"] = round(time.perf_counter() - began, 1)
    write_json(output / "results.json", content)
    print(f"Figures: {output / 'results.json'}")
    return page


def finish_run(prepared: Run, began: float) -> Path:
    """Evaluates a finished run on its own held-out text; returns the page."""
    config, folder = prepared.config, prepared.folder
    context = min(config.context, prepared.model.context)
    held_out = HeldOut(
        config.text, "held_out", config.evaluation_sequences, context, config.skipped
    )
    return finish(prepared.model, config, folder, folder, held_out, began)
