"""`crossproof prove --kind statistical`: certificates of a language model and its dictionary."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.activations.config import Split
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError
from crossproof.interactions.config import mlps_of
from crossproof.proof.certificate.text_options import DocumentSlice, StatisticalOptions

KINDS = ("statistical",)


@dataclass(frozen=True)
class ProveStatistical:
    """With confidence 1 - delta: what a dictionary costs a language model on text like this.

    Measures held-out documents, with the dictionary spliced in and with m latents a neuron, and
    bounds the expected loss gap and share of changed predictions. No proof about every input:

      crossproof prove runs/demo --kind statistical --crosscoder penalised --out certificate
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train`, or one that holds crosscoder.safetensors."""
    out: Path
    """Folder for the certificate; an earlier one in it is replaced."""
    kind: Literal["statistical"] = "statistical"
    crosscoder: str = ""
    """Which crosscoder of the run; none: its only one."""
    statistical: StatisticalOptions = field(default_factory=StatisticalOptions)
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Documents that the dictionary has not seen; by default the run's own source."""
    split: Split = "held_out"
    skip: int | None = None
    """Rows at the beginning of the split to pass over, as already looked at; by default the run's
    own number."""
    context: int = 256
    """Tokens of a document that are read at most."""
    mlp: str | None = None
    """MLPs that read m latents a neuron, all at once: next, all, or blocks such as 3,4; by default
    those the run was trained for."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Measures, writes and verifies; exits with 1 if the written claim does not hold."""
    options: ProveStatistical = parse(ProveStatistical, "prove", arguments)
    named = options.mlp and mlps_of(options.mlp)  # before anything is loaded

    from crossproof.proof.certificate.statistical import prove_statistical
    from crossproof.report.terminal import evaluation_display, print_tables, say
    from crossproof.training.machine import thread_setting
    from crossproof.training.run_folder import RunFolder

    thread_setting(options.threads)
    folder = RunFolder.open(options.run)
    name = one_of(folder.names, options.crosscoder, options.run)
    model, config = options.language_model.load(options.run)
    crosscoder = folder.crosscoders(model)[name]
    text = options.text or config.text
    skip = config.skipped if text == config.text else 0
    where = DocumentSlice(
        text,
        options.split,
        min(options.context, model.context),
        skip if options.skip is None else options.skip,
    )
    with evaluation_display("measuring", "documents") as progress:
        result = prove_statistical(
            model,
            crosscoder,
            where,
            options.out,
            options.statistical,
            named or mlps_of(config.penalise),
            partial(progress, name),
        )
    print_tables(result.tables())
    say(result.verdict)
    say(f"Certificate: {options.out}; `crossproof verify {options.out}` checks its bounds.")
    if not result.holds:
        print("crossproof: the statistical claim is NOT verified.", file=sys.stderr)
        sys.exit(1)


def one_of(names: Sequence[str], asked: str, where: Path) -> str:
    """The crosscoder that is asked for, or the only one; CrossproofError otherwise."""
    if asked in names or (not asked and len(names) == 1):
        return asked or names[0]
    wrong = f"There is no crosscoder '{asked}' in {where}" if asked else f"{where} has several"
    raise CrossproofError(f"{wrong}: give --crosscoder, one of {', '.join(names)}.")


def kind_asked(arguments: Sequence[str]) -> str | None:
    """The last `--kind` on a command line, if it is one of a language model's."""
    pairs = pairwise([*arguments, ""])
    asked = [
        word.removeprefix("--kind=") if "=" in word else after
        for word, after in pairs
        if word == "--kind" or word.startswith("--kind=")
    ]
    return next((kind for kind in reversed(asked) if kind in KINDS), None)
