"""`crossproof train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from crossproof.commands.early import check_folder, check_model, check_text, loading
from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError, in_shell
from crossproof.training.config import RECIPES, RECIPES_WIDTH, RunConfig
from crossproof.training.sinks import check_sinks
from crossproof.working import working


@dataclass(frozen=True)
class Train:
    """Train an unpenalised and a penalised crosscoder on the same batches, then evaluate both.

    Start from a recipe and change what you like:

      crossproof train --recipe full --out runs/full --seed 1
      crossproof train --out runs/mine --model ./my-gpt2 --text my.txt --keep-largest 300

    Ctrl-C saves a checkpoint; `crossproof train --resume --out runs/full` goes on from it, to the
    same bytes as an uninterrupted run. Several processes share the work of every step under
    `torchrun --nproc-per-node 2 -m crossproof train ...` (--threads is each process's own); with
    torchrun's `--max-restarts` they go on from it by themselves when one of them has died.
    """

    out: Path = tyro.MISSING
    """Run folder: configuration, metrics, checkpoints, crosscoders, results.json, report.html."""
    recipe: Literal["demo", "full", "paper"] = "demo"
    """Defaults of all options below: demo (minutes), full (the published figures) or paper."""
    resume: bool = False
    """Go on with the run in --out; all other options come from its config.json."""
    trust_remote_code: bool = False
    """Run the code that the language model brings, if transformers does not know its kind."""
    evaluate: bool = True
    """Evaluate on held-out text and write the report when training ends."""
    latent_processes: int = 1
    """Of several processes (torchrun), so many share out the latents of each dictionary, where one
    device cannot hold them; the others share out tokens."""
    log: tuple[str, ...] = ()
    """Where else to send what is logged: tensorboard, wandb, trackio, or another registered sink;
    metrics.jsonl is written always. Theirs stay here, too, unless their variables say otherwise."""
    dry_run: bool = False
    """Say how much memory it would take, and train nothing."""
    config: RunConfig = field(default_factory=lambda: RECIPES["demo"])


def run(arguments: Sequence[str], began: float) -> None:
    """Trains or resumes, then evaluates; `began` is when the process started."""
    recipe, _ = _recipe_parser().parse_known_args(arguments)
    if recipe.recipe not in RECIPES:
        known = ", ".join(RECIPES)
        raise CrossproofError(f"There is no recipe '{recipe.recipe}'; choose {known}.")
    default = Train(config=RECIPES[recipe.recipe])
    options: Train = parse(Train, "train", arguments, default)

    check_sinks(options.log)
    if not options.resume:
        check_model(options.config.model)
        check_text(options.config.text)
        stored = options.config.activations
        check_folder(Path(stored) if stored else None, "one written by `crossproof harvest`")
    with loading():
        from crossproof.commands.finish import finish_run, train_to_the_end
        from crossproof.report.terminal import print_tables, say
        from crossproof.training import distributed
        from crossproof.training.run import memory_needed, resume, start
        from crossproof.training.stored import with_stored

    again = distributed.restarted() and (options.out / "config.json").exists()
    goes_on = options.resume or again
    config = options.config if goes_on else with_stored(options.config, given(arguments))
    if options.dry_run:
        with working("reading the model"):
            needed = memory_needed(config, options.trust_remote_code)
        print_tables([needed.table()])
        needed.check()
        return
    if options.resume:
        name_ignored(arguments, options.out)
    with distributed.process_group(options.latent_processes):
        begin = resume if goes_on else partial(start, config)
        first = distributed.rank() == 0
        with working("reading the model and its text") if first else nullcontext():
            prepared = begin(options.out, trust_remote_code=options.trust_remote_code)
        if first and config.objective == default.config.objective and not goes_on:
            made = (t.crosscoder for t in prepared.training.trainers.values())
            say_weight(config, min(len(each.written) * each.d_model for each in made))
        train_to_the_end(prepared, options.log)
        if distributed.rank() > 0:
            return
    if options.evaluate:
        finish_run(prepared, began)
    else:
        say(f"Crosscoders: {prepared.folder}")
        say(f"Next: `crossproof evaluate {in_shell(prepared.folder)}` says how good they are.")


def given(arguments: Sequence[str]) -> list[str]:
    """The options that a command line names, as their settings are called."""
    named = (a.partition("=")[0] for a in arguments if a.startswith("--"))
    return list(dict.fromkeys(name.removeprefix("--").replace("-", "_") for name in named))


def say_weight(config: RunConfig, width: int) -> None:
    """Says so where a recipe's strengths weigh much more than where they were found.

    `width`: numbers that a dictionary writes a token, over which its squared error is a sum.
    """
    share = width / RECIPES_WIDTH
    if share > 1 / 3 or not config.penalised:
        return
    alike = " ".join(
        f"--{name.replace('_', '-')} {float(f'{strength * share:.3g}'):g}"
        for name, strength in config.objective.strengths().items()
    )
    print(
        f"crossproof: the recipe's strengths were found for 13 hookpoints of 128 dimensions and "
        f"weigh {1 / share:.3g} times as much beside this dictionary's error. As much as there: "
        f"{alike}",
        file=sys.stderr,
    )


def name_ignored(arguments: Sequence[str], out: Path) -> None:
    """Says which options a resumed run takes no notice of."""
    heeded = (
        *("out", "resume", "evaluate", "no_evaluate", "trust_remote_code", "log"),
        "latent_processes",
    )
    ignored = [f"--{name.replace('_', '-')}" for name in given(arguments) if name not in heeded]
    if ignored:
        print(
            f"crossproof: {', '.join(ignored)} ignored: a resumed run keeps the settings in "
            f"{out / 'config.json'}.",
            file=sys.stderr,
        )


def _recipe_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", default="demo")
    return parser
