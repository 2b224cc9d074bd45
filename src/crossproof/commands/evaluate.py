"""`crossproof evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.activations.config import RowKind
from crossproof.commands.early import check_text, loading
from crossproof.commands.models import RUNS, ModelOptions, first_run
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.interactions.config import mlps_of


@dataclass(frozen=True)
class Evaluate:
    """Measure the crosscoders of a run folder (or one crosscoder folder) on held-out text.

    Text is read in slices, which are kept until all are there: a command that was stopped goes on
    with the next when it is given again, and processes share them out under
    `torchrun --nproc-per-node 2 -m crossproof evaluate ...`.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, RUNS]
    """A folder written by `crossproof train` or `import`, or one that holds
    crosscoder.safetensors; several with --together."""
    together: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All dictionaries of the folders at once (a transcoder a layer), as one dictionary with the
    latents of all; by default into RUN/together."""
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Text to evaluate on; by default the run's own source."""
    rows: RowKind | None = None
    """How it is cut: packed, or each sequence the beginning of a document; by default as the run's
    own."""
    split: Literal["held_out", "validation", "train"] = "held_out"
    sequences: int = 64
    """How many sequences; intervals narrow with the root of it, time grows with it."""
    skip: int = 0
    """Sequences at the beginning of the split to pass over, as already looked at."""
    context: int | None = None
    """Tokens a sequence; by default as many as the run was trained on."""
    seed: int = 0
    """Of the bootstrap and of drop-random."""
    mlp: str | None = None
    """MLPs that read the dictionary: next (at or first behind what it writes), all, or blocks such
    as 3,4; by default those the run was trained for."""
    out: Path | None = None
    """Folder for results.json and report.html; by default RUN/evaluation-SPLIT."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Measures and reports; `began` is when the process started."""
    options: Evaluate = parse(Evaluate, "evaluate", arguments)
    named = options.mlp and mlps_of(options.mlp)  # before anything is loaded
    run = first_run(options.runs, options.together)
    finished_crosscoders(run)
    options.language_model.check()
    check_text(options.text)

    with loading():
        from crossproof.activations.corpus import TextSlice, fitting_context
        from crossproof.commands.finish import finish
        from crossproof.evaluation.config import EvaluationOptions
        from crossproof.files import filled_folder
        from crossproof.training import distributed
        from crossproof.training.machine import thread_setting

    thread_setting(options.threads)
    with distributed.process_group(patient=True):
        model, config = options.language_model.load(run)
        context = fitting_context(options.context or config.context, model)
        source, rows = options.text or config.text, options.rows or config.rows
        text = TextSlice(source, options.split, options.sequences, context, options.skip, rows)
        usual = "together" if options.together else f"evaluation-{options.split}"
        output = options.out or run / usual
        settings = EvaluationOptions(seed=options.seed, mlps=named or mlps_of(config.penalise))
        together = options.runs if options.together else ()
        with filled_folder(output):
            finish(model, config, run, output, text, began, settings, together)
