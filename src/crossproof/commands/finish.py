"""What train, demo and evaluate have in common: training to the end, figures and page."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from crossproof.activations import massive_table
from crossproof.activations.corpus import TextSlice
from crossproof.commands.following import next_step
from crossproof.errors import in_shell, printable
from crossproof.evaluation import EvaluationOptions
from crossproof.evaluation.run_figures import evaluate_run, evaluate_together
from crossproof.evaluation.slices import SLICES, forget
from crossproof.files import make_folder
from crossproof.interactions.config import mlps_of
from crossproof.kernels import HAVE_NUMBA
from crossproof.lm import LanguageModel
from crossproof.report import refresh_reports, report_run
from crossproof.report.terminal import evaluation_display, print_tables, say, training_display
from crossproof.result import Result
from crossproof.training import distributed
from crossproof.training.config import RunConfig
from crossproof.training.run import Interrupted, Run, train_run
from crossproof.working import working


def train_to_the_end(prepared: Run, log: Sequence[str] = ()) -> None:
    """Trains with a live display; exits with 130 after Ctrl-C, the checkpoint saved.

    `log` names sinks that get the figures, too.
    """
    first = distributed.rank() == 0
    if first and not HAVE_NUMBA and prepared.model.device.type == "cpu":
        say("Compiled kernels are missing: pip install 'crossproof[fast]' makes this much faster.")
    if first and prepared.training.massive:
        print_tables([massive_table(prepared.training.massive)])
    display = training_display(prepared.config.steps, prepared.training.step)
    try:
        with display if first else nullcontext(lambda _: None) as report:
            train_run(prepared, report, log)
    except Interrupted as stopped:
        if first:
            how = f"`crossproof train --resume --out {in_shell(prepared.folder)}`"
            sentence = f"crossproof: stopped after step {stopped.step}; go on with {how}."
            print(printable(sentence), file=sys.stderr)
        sys.exit(130)


def finish(
    model: LanguageModel,
    config: RunConfig,
    folder: Path,
    output: Path,
    text: TextSlice,
    began: float,
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  (frozen)
    together: Sequence[Path] = (),
) -> None:
    """Evaluates, writes results.json and report.html, and prints the table when both are there.

    `together`: all dictionaries of these run folders as one. Processes of torchrun share out the
    text, and the first writes and prints.
    """
    make_folder(output)
    slices, first = output / SLICES, distributed.rank() == 0
    with evaluation_display() if first else nullcontext() as progress:
        if together:
            results = evaluate_together(model, list(together), text, options, progress, slices)
        else:
            results = evaluate_run(model, folder, config, text, options, progress, slices)
    results = replace(results, seconds=round(time.perf_counter() - began, 1))
    if first:
        results.save(output / "results.json")
    forget(slices)
    if not first:
        return
    with working("writing the report"):
        page = report_run(output if together else folder, output, results)
    print_tables(results.tables())
    say(f"Figures: {output / 'results.json'}")
    say(f"Report: {page}")
    read = any(figures.unread is None for figures in results.runs.values())
    say(next_step(folder, together) if read else f"Next: open {page}; no MLP reads what is there.")


def finish_run(prepared: Run, began: float) -> None:
    """Evaluates a finished run on its own held-out text."""
    config, folder = prepared.config, prepared.folder
    context = min(config.context, prepared.model.context)
    count = config.evaluation_sequences
    text = TextSlice(config.text, "held_out", count, context, config.skipped, config.rows)
    options = EvaluationOptions(mlps=mlps_of(config.penalise))
    finish(prepared.model, config, folder, folder, text, began, options)


def show(result: Result, *lines: str, run: Path | None = None) -> None:
    """Prints a result that is written, and lines about it; renews the reports on `run` before."""
    with working("writing the report"):
        pages = [] if run is None else [f"Report: {page}" for page in refresh_reports(run)]
    print_tables(result.tables())
    for line in (*lines, *pages):
        say(line)
