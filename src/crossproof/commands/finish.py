"""What train, demo and evaluate have in common: training to the end, figures and page."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from crossproof.activations import massive_table
from crossproof.activations.corpus import TextSlice
from crossproof.evaluation import EvaluationOptions
from crossproof.evaluation.run_figures import evaluate_run
from crossproof.files import make_folder
from crossproof.lm import LanguageModel
from crossproof.report import report_run
from crossproof.report.terminal import evaluation_display, print_tables, training_display
from crossproof.training import distributed
from crossproof.training.config import RunConfig
from crossproof.training.run import Interrupted, Run, train_run


def train_to_the_end(prepared: Run) -> None:
    """Trains with a live display; exits with 130 after Ctrl-C, the checkpoint saved."""
    first = distributed.rank() == 0
    if first and prepared.training.massive:
        print_tables([massive_table(prepared.training.massive)])
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
    text: TextSlice,
    began: float,
    seed: int = 0,
) -> Path:
    """Evaluates, prints the table, writes results.json and report.html; returns the page."""
    make_folder(output)
    with evaluation_display() as progress:
        options = EvaluationOptions(seed=seed)
        results = evaluate_run(model, folder, config, text, options, progress)
    print_tables(results.tables())
    results = replace(results, seconds=round(time.perf_counter() - began, 1))
    page = report_run(folder, output, results)
    results.save(output / "results.json")
    print(f"Figures: {output / 'results.json'}")
    return page


def finish_run(prepared: Run, began: float) -> Path:
    """Evaluates a finished run on its own held-out text; returns the page."""
    config, folder = prepared.config, prepared.folder
    context = min(config.context, prepared.model.context)
    count = config.evaluation_sequences
    text = TextSlice(config.text, "held_out", count, context, config.skipped, config.rows)
    return finish(prepared.model, config, folder, folder, text, began)
