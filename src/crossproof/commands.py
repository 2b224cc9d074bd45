"""The commands behind the command line: options as documented dataclasses, and what they do."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from crossproof.display import console, evaluation_display, results_table, training_display
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions
from crossproof.lm import LanguageModel, load_model
from crossproof.report import report_run
from crossproof.results import HeldOut, evaluate_run, results, run_crosscoders, write_json
from crossproof.training.config import RECIPES, RunConfig
from crossproof.training.machine import thread_setting
from crossproof.training.run import Interrupted, Run, config_from_dict, resume, start
from crossproof.training.run import train as run_training


@dataclass(frozen=True)
class Train:
    """Train an unpenalised and a penalised crosscoder on the same batches, then evaluate both.

    Start from a recipe and change what you like:

      crossproof train --recipe full --out runs/full --seed 1
      crossproof train --out runs/mine --model ./my-gpt2 --text my.txt --transition 300

    Ctrl-C saves a checkpoint; `crossproof train --resume --out runs/full` goes on from it, to the
    same bytes as an uninterrupted run.
    """

    out: Path
    """Run folder: configuration, metrics, checkpoints, crosscoders, results.json, report.html."""
    recipe: Literal["demo", "full", "paper"] = "demo"
    """Defaults of all options below: demo (minutes), full (the published figures) or paper."""
    resume: bool = False
    """Go on with the run in --out; all other options come from its config.json."""
    evaluate: bool = True
    """Evaluate on held-out text and write the report when training ends."""
    config: RunConfig = field(default_factory=lambda: RECIPES["demo"])


@dataclass(frozen=True)
class Evaluate:
    """Measure the crosscoders of a run folder (or one crosscoder folder) on held-out text."""

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train`, or one that holds crosscoder.safetensors."""
    model: str | None = None
    """The language model; by default the one the crosscoder was trained on."""
    text: str | None = None
    """Text to evaluate on; by default the run's own source."""
    split: Literal["held_out", "validation", "train"] = "held_out"
    sequences: int = 256
    """How many sequences."""
    context: int = 256
    """Tokens a sequence."""
    seed: int = 0
    """Of the bootstrap and of drop-random."""
    output: Path | None = None
    """Folder for results.json and report.html; by default RUN/evaluation-SPLIT."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


@dataclass(frozen=True)
class Demo:
    """Train both crosscoders on the bundled model, evaluate them, write the report. Offline."""

    output: Path = Path("runs/demo")
    """Run folder; an earlier demo in it is replaced."""
    seed: int = 0
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(command: str, arguments: Sequence[str], began: float) -> None:
    """Runs one command; `began` is when the process started, for the times it reports."""
    match command:
        case "train":
            recipe, _ = _recipe_parser().parse_known_args(arguments)
            if recipe.recipe not in RECIPES:
                known = ", ".join(RECIPES)
                raise CrossproofError(f"There is no recipe '{recipe.recipe}'; choose {known}.")
            default = Train(tyro.MISSING, config=RECIPES[recipe.recipe])
            _train(_parse(Train, command, arguments, default), began)
        case "evaluate":
            _evaluate(_parse(Evaluate, command, arguments), began)
        case _:
            _demo(_parse(Demo, command, arguments), began)


def _recipe_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="demo")
    return parser


def _parse(kind: Any, command: str, arguments: Sequence[str], default: Any = None) -> Any:
    defaults = {} if default is None else {"default": default}
    return tyro.cli(
        kind,
        args=list(arguments),
        prog=f"crossproof {command}",
        config=(tyro.conf.OmitArgPrefixes,),
        **defaults,
    )


def _train(options: Train, began: float) -> None:
    prepared = resume(options.out) if options.resume else start(options.config, options.out)
    _to_the_end(prepared)
    if options.evaluate:
        report = _finish_run(prepared, began)
        print(f"Report: {report}")
    else:
        print(f"Crosscoders: {prepared.folder}; `crossproof evaluate {prepared.folder}` measures.")


def _demo(options: Demo, began: float) -> None:
    config = replace(RECIPES["demo"], seed=options.seed, threads=options.threads)
    if options.output.exists():
        if not (options.output / "config.json").exists() and any(options.output.iterdir()):
            raise CrossproofError(
                f"{options.output} holds something that is not a run: give another --output."
            )
        shutil.rmtree(options.output)
    prepared = start(config, options.output)
    _to_the_end(prepared)
    report = _finish_run(prepared, began)
    print(f"Report: {report}")


def _to_the_end(prepared: Run) -> None:
    config, done = prepared.config, next(iter(prepared.trainers.values())).step_index
    try:
        with training_display(config.steps, done) as report:
            run_training(prepared, report)
    except Interrupted as stopped:
        print(
            f"crossproof: stopped after step {stopped.step}; go on with "
            f"`crossproof train --resume --out {prepared.folder}`.",
            file=sys.stderr,
        )
        sys.exit(130)


def _evaluate(options: Evaluate, began: float) -> None:
    thread_setting(options.threads)
    provenance = next(iter(run_crosscoders(options.run).values()))[1]
    config = config_from_dict(dict(provenance.training))
    model = load_model(options.model or provenance.model, device=config.device)
    context = min(options.context, model.context)
    text = options.text or config.text
    held_out = HeldOut(text, options.split, options.sequences, context)
    output = options.output or options.run / f"evaluation-{options.split}"
    report = _finish(model, config, options.run, output, held_out, began, options.seed)
    print(f"Report: {report}")


def _finish(
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


def _finish_run(prepared: Run, began: float) -> Path:
    config, folder = prepared.config, prepared.folder
    context = min(config.context, prepared.model.context)
    held_out = HeldOut(config.text, "held_out", config.evaluation_sequences, context)
    return _finish(prepared.model, config, folder, folder, held_out, began)
