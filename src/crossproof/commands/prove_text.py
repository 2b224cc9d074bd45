"""`crossproof prove --kind statistical` and `--kind contexts`: certificates of a language model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro

from crossproof.activations.config import Split
from crossproof.commands.early import check_text, loading
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders
from crossproof.errors import CrossproofError, in_shell
from crossproof.interactions.config import mlps_of
from crossproof.proof.certificate.text_options import (
    ContextOptions,
    DocumentSlice,
    StatisticalOptions,
)
from crossproof.working import working

if TYPE_CHECKING:
    from crossproof.crosscoder.model import Crosscoder
    from crossproof.lm import LanguageModel
    from crossproof.proof.certificate.result_contexts import ContextsResult
    from crossproof.proof.certificate.result_statistical import StatisticalResult
    from crossproof.training.config import RunConfig

T = TypeVar("T", "ProveStatistical", "ProveContexts")
KINDS = ("statistical", "contexts")


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


@dataclass(frozen=True)
class ProveContexts:
    """What a dictionary costs a language model at listed contexts, as a proof about these alone.

    The last MLP, then the last two, read m latents a neuron: how many predictions keep their most
    likely token, and how far the loss moves, against the model itself:

      crossproof prove runs/demo --kind contexts --crosscoder penalised --out certificate
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train`, or one that holds crosscoder.safetensors."""
    out: Path
    """Folder for the certificate; an earlier one in it is replaced."""
    kind: Literal["contexts"] = "contexts"
    crosscoder: str = ""
    """Which crosscoder of the run; none: its only one."""
    treatments: ContextOptions = field(default_factory=ContextOptions)
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Where the contexts are from; by default the run's own source."""
    split: Split = "held_out"
    sequences: int = 8
    """How many contexts."""
    skip: int = 0
    """Sequences at the beginning of the split to pass over."""
    context: int = 256
    """Tokens a context."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Measures, writes and verifies; exits with 1 if the written claim does not hold."""
    if kind_asked(arguments) == "contexts":
        _contexts(_checked(parse(ProveContexts, "prove", arguments)))
        return
    options: ProveStatistical = _checked(parse(ProveStatistical, "prove", arguments))
    named = options.mlp and mlps_of(options.mlp)  # before anything is loaded

    with loading():
        from crossproof.proof.certificate.statistical import prove_statistical
        from crossproof.report.terminal import evaluation_display

    model, config, name, crosscoder = _loaded(options)
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
    _shown(result, options.out)


def _checked(options: T) -> T:
    """The options, if what they name is there: nothing is loaded for it."""
    one_of([*finished_crosscoders(options.run)], options.crosscoder, options.run)
    options.language_model.check()
    check_text(options.text)
    return options


def _contexts(options: ProveContexts) -> None:
    with loading():
        from crossproof.activations.corpus import TextSlice
        from crossproof.proof.certificate.contexts import prove_contexts

    model, config, _, crosscoder = _loaded(options)
    context = min(options.context, model.context)
    source = options.text or config.text
    text = TextSlice(source, options.split, options.sequences, context, options.skip, config.rows)
    with working("proving, and verifying the proof"):
        result = prove_contexts(model, crosscoder, text, options.out, options.treatments)
    _shown(result, options.out)


def _loaded(
    options: ProveStatistical | ProveContexts,
) -> tuple[LanguageModel, RunConfig, str, Crosscoder]:
    """The model, how the run was trained, and the crosscoder with its name."""
    from crossproof.training.machine import thread_setting
    from crossproof.training.run_folder import RunFolder

    thread_setting(options.threads)
    folder = RunFolder.open(options.run)
    name = one_of(folder.names, options.crosscoder, options.run)
    model, config = options.language_model.load(options.run)
    return model, config, name, folder.crosscoders(model)[name]


def _shown(result: StatisticalResult | ContextsResult, out: Path) -> None:
    from crossproof.report.terminal import print_tables, say

    print_tables(result.tables())
    say(result.verdict)
    say(f"Certificate: {out}")
    if not result.holds:
        print("crossproof: the claim as written is NOT verified.", file=sys.stderr)
        sys.exit(1)
    say(f"Next: `crossproof verify {in_shell(out)}` checks its bounds.")


def one_of(names: Sequence[str], asked: str, where: Path) -> str:
    """The crosscoder that is asked for, or the only one; CrossproofError otherwise."""
    if asked in names or (not asked and len(names) == 1):
        return asked or names[0]
    wrong = (
        f"There is no crosscoder '{asked}' in {where}"
        if asked
        else f"{where} has several crosscoders"
    )
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
