"""`crossproof measure`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError


@dataclass(frozen=True)
class Measure:
    """Measure which latents of a dictionary interact: where, how strongly, on which texts.

    Sums the interaction of every pair of latents over every token and neuron, exactly:

      crossproof measure runs/demo --tokens 1e6 --split train
      crossproof measure runs/mine --text my.txt --against runs/other
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train`, or one that holds crosscoder.safetensors."""
    against: Path | None = None
    """Another such folder: its crosscoders are measured on the same text and compared."""
    model: str | None = None
    """The language model; by default the one the crosscoder was trained on."""
    text: str | None = None
    """Text to measure on; by default the run's own source."""
    split: Literal["held_out", "validation", "train"] = "held_out"
    tokens: float = 100_000.0
    """How many tokens (1e6 is a million); the whole split if it has fewer."""
    context: int = 256
    """Tokens a sequence."""
    pairs: int = 12
    """How many of the strongest pairs to describe."""
    attention: bool = True
    """Measure what attention scores are made of, too."""
    shapley_tokens: int = 2
    """Tokens a pair at which its Shapley-Taylor index is computed; 0: none."""
    out: Path | None = None
    """Folder for the sums and measure.json; by default RUN/measure."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Measures, prints tables, writes measure.json and renews the run's report."""
    options: Measure = parse(Measure, "measure", arguments)
    if not 1 <= options.tokens < math.inf:
        raise CrossproofError(f"--tokens is {options.tokens:g}: give a number from 1 up.")
    for name in ("pairs", "shapley_tokens"):
        if getattr(options, name) < 0:
            shown = name.replace("_", "-")
            raise CrossproofError(f"--{shown} is {getattr(options, name)}: give 0 or more.")

    from crossproof.activations.corpus import TextSlice
    from crossproof.evaluation.measure_run import MeasureOptions, measure_runs
    from crossproof.lm import load_model
    from crossproof.report import refresh_report
    from crossproof.report.terminal import evaluation_display, print_contexts, print_tables
    from crossproof.training.config import config_from_dict
    from crossproof.training.machine import keep_freed_memory, thread_setting
    from crossproof.training.run_folder import RunFolder

    thread_setting(options.threads)
    keep_freed_memory()
    provenance = RunFolder.open(options.run).provenance()
    config = config_from_dict(dict(provenance.training))
    model = load_model(options.model or provenance.model, device=config.device)
    context = min(options.context, model.context)
    source = options.text or config.text
    text = TextSlice.of_tokens(source, options.split, int(options.tokens), context, config.rows)
    folders = [options.run] if options.against is None else [options.run, options.against]
    output = options.out or options.run / "measure"
    described = MeasureOptions(options.pairs, options.attention, options.shapley_tokens)
    with evaluation_display("measuring", "sequences") as progress:
        result = measure_runs(model, folders, output, text, described, progress)
    print_tables(result.tables())
    for name, figures in result.runs.items():
        print_contexts(name, figures.top_pairs)
        if figures.attention is not None and figures.attention.missing is not None:
            print(f"{name}, attention not measured: {figures.attention.missing}")
    print(f"Sums and measure.json: {output}")
    if output == options.run / "measure" and (options.run / "results.json").exists():
        print(f"Report: {refresh_report(options.run)}")
