"""`crossproof measure`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from crossproof.activations.config import RowKind
from crossproof.commands.early import check_text, loading
from crossproof.commands.following import next_step
from crossproof.commands.models import RUNS, ModelOptions, first_run
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.errors import CrossproofError
from crossproof.interactions.config import mlps_of

if TYPE_CHECKING:
    from crossproof.evaluation.measurement import RunMeasurement


@dataclass(frozen=True)
class Measure:
    """Measure which latents of a dictionary interact: where, how strongly, on which texts.

    Sums the interaction of every pair of latents over every token and neuron, exactly:

      crossproof measure runs/demo --tokens 1e6 --split train
      crossproof measure runs/mine --text my.txt --against runs/other
      crossproof measure runs/transcoders runs/attention --together --mlp all

    Long texts are measured in slices, which are kept until all are there: a command that was
    stopped goes on with the next when it is given again, and processes share them out under
    `torchrun --nproc-per-node 2 -m crossproof measure ...`.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, RUNS]
    """A folder written by `crossproof train` or `import`, or one that holds
    crosscoder.safetensors; several with --together."""
    together: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All dictionaries of the folders at once (a transcoder a layer): contributions of all their
    latents stand side by side; by default into RUN/together/measure."""
    against: Path | None = None
    """Another such folder: its crosscoders are measured on the same text and compared."""
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Text to measure on; by default the run's own source."""
    rows: RowKind | None = None
    """How it is cut: packed, or each sequence the beginning of a document; by default as the run's
    own."""
    split: Literal["held_out", "validation", "train"] = "held_out"
    tokens: float = 100_000.0
    """How many tokens (1e6 is a million); the whole split if it has fewer."""
    context: int | None = None
    """Tokens a sequence; by default as many as the run was trained on."""
    mlp: str | None = None
    """MLPs that read the dictionary: next (at or first behind what it writes), all, or blocks such
    as 3,4; by default those the run was trained for."""
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
    measured(parse(Measure, "measure", arguments))


def measured(options: Measure, leave_half: bool = False) -> None:
    """What the command does; another that needs text beside the measured one leaves half of it."""
    named = options.mlp and mlps_of(options.mlp)  # before anything is loaded
    run, folders = _checked(options)
    with loading():
        from crossproof.activations.corpus import TextSlice, fitting_context
        from crossproof.commands.finish import show
        from crossproof.evaluation.measure_run import MeasureOptions, measure_runs
        from crossproof.report.terminal import evaluation_display, print_contexts, say
        from crossproof.training import distributed
        from crossproof.training.machine import keep_freed_memory, thread_setting
        from crossproof.training.run_folder import RunFolder

    thread_setting(options.threads)
    keep_freed_memory()
    place = run / "together" if options.together else run
    output = options.out or place / "measure"
    with distributed.process_group(patient=True):
        model, config = options.language_model.load(run)
        context = fitting_context(options.context or config.context, model)
        source, rows = options.text or config.text, options.rows or config.rows
        text = TextSlice.of_tokens(source, options.split, int(options.tokens), context, rows)
        if leave_half:
            every = len(text.every(model))
            text = replace(text, sequences=min(text.sequences, max(1, every // 2)))
        described = MeasureOptions(
            options.pairs,
            options.attention,
            options.shapley_tokens,
            mlps=named or mlps_of(config.penalise),
        )
        first = distributed.rank() == 0
        display = evaluation_display("measuring", "sequences") if first else nullcontext()
        with display as told:
            result = measure_runs(model, folders, output, text, described, told, options.together)
    if not first:
        return
    lines = [
        f"{name} not measured: none of the MLPs reads it."
        for name in RunFolder.open(run).names
        if name not in result.runs and not options.together
    ]
    lines += _without_attention(result)
    listed = place if output == place / "measure" else None
    show(result, *lines, f"Sums and measure.json: {output}", run=listed)
    for name, figures in result.runs.items():
        print_contexts(name, figures.top_pairs, figures.dictionaries)
    if not leave_half:
        say(next_step(run, options.runs if options.together else ()))


def _checked(options: Measure) -> tuple[Path, list[Path]]:
    """The run, and the folders whose crosscoders are measured, if what is named is there."""
    run = first_run(options.runs, options.together)
    if options.together and options.against is not None:
        raise CrossproofError("--together and --against contradict each other: give one.")
    folders = list(options.runs) if options.against is None else [run, options.against]
    for folder in folders:
        finished_crosscoders(folder)
    options.language_model.check()
    check_text(options.text)
    return run, folders


def _without_attention(result: RunMeasurement) -> list[str]:
    """Why there are no attention scores, said once of all crosscoders that lack them alike."""
    alike: dict[str, list[str]] = {}
    for name, figures in result.runs.items():
        if figures.attention is not None and figures.attention.missing is not None:
            alike.setdefault(figures.attention.missing, []).append(name)
    return [
        f"{', '.join(names)}: attention not measured. {reason}" for reason, names in alike.items()
    ]
