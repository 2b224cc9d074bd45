"""`crossproof demo`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crossproof.commands.early import loading
from crossproof.commands.parsing import parse
from crossproof.errors import CrossproofError
from crossproof.files import read_json
from crossproof.training.config import RECIPES, RunConfig, config_to_dict
from crossproof.working import working

LASTS = "Trains two crosscoders and evaluates them: three to five minutes on two idle cores."


@dataclass(frozen=True)
class Demo:
    """Train both crosscoders on the bundled model, evaluate them, write the report. Offline."""

    out: Path = Path("runs/demo")
    """Run folder; an earlier demo in it is replaced."""
    seed: int = 0
    """Of initial weights and of the order of the text."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Trains, evaluates and reports; `began` is when the process started."""
    options: Demo = parse(Demo, "demo", arguments)
    print(LASTS, flush=True)

    with loading():
        from crossproof.commands.finish import finish_run, train_to_the_end
        from crossproof.training.run import start

    config = replace(RECIPES["demo"], seed=options.seed, threads=options.threads)
    if options.out.exists():
        _check_replaceable(options.out, config)
        shutil.rmtree(options.out)
    with working("reading the model and its text"):
        prepared = start(config, options.out)
    train_to_the_end(prepared)
    finish_run(prepared, began)


def _check_replaceable(out: Path, config: RunConfig) -> None:
    """Raises CrossproofError unless the folder is empty or holds a run of the demo."""
    if out.is_dir() and not any(out.iterdir()):
        return
    stored = out / "config.json"
    wanted = json.loads(json.dumps(config_to_dict(config)))
    free = {name: wanted[name] for name in ("seed", "threads")}
    if not stored.is_file() or read_json(stored) | free != wanted:
        raise CrossproofError(
            f"{out} holds something that is not a run of this demo: give another --out, or remove "
            f"it.",
            code="CP-OUT",
        )
