"""`crossproof harvest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.activations.config import StoredDtype
from crossproof.commands.early import check_model, check_text, loading
from crossproof.commands.parsing import parse
from crossproof.errors import in_shell
from crossproof.training.config import RECIPES, RunConfig
from crossproof.working import working


@dataclass(frozen=True)
class HarvestCommand:
    """Store the activations that a training would read, to train many times from them.

    Takes what `train` takes, and reads what that would read in --steps steps:

      crossproof harvest --out stores/mine --model ./my-gpt2 --text my.txt --steps 5000
      crossproof train --activations stores/mine --steps 5000 --out runs/mine

    The size is printed first, and refused if the disk has less. Ctrl-C and crashes cost one file
    at most: the same command goes on where it stopped.
    """

    out: Path = tyro.MISSING
    """Folder of the store."""
    stored: Annotated[StoredDtype, tyro.conf.arg(name="store-as")] = "bfloat16"
    """In which the numbers are stored: float32 gives the bytes of a training without a store."""
    trust_remote_code: bool = False
    """Run the code that the language model brings, if transformers does not know its kind."""
    config: RunConfig = field(default_factory=lambda: RECIPES["demo"])


def run(arguments: Sequence[str], began: float) -> None:
    """Harvests, or goes on harvesting."""
    options: HarvestCommand = parse(HarvestCommand, "harvest", arguments)
    check_model(options.config.model)
    check_text(options.config.text)

    with loading():
        from crossproof.lm import load_model
        from crossproof.report.terminal import evaluation_display, say
        from crossproof.training.machine import thread_setting
        from crossproof.training.storing import harvest_to

    config = options.config
    thread_setting(config.threads)
    with working("reading the model"):
        model = load_model(
            config.model,
            device=config.device,
            dtype=config.dtype,
            trust_remote_code=options.trust_remote_code,
        )
    with evaluation_display("harvesting", "batches") as progress:

        def tell(done: int, total: int) -> None:
            progress(model.name, done, total)

        harvest_to(options.out, config, model, options.stored, say, tell)
    say(f"Activations: {options.out}")
    given = f"--activations {in_shell(options.out)} --steps {config.steps}"
    say(f"Next: `crossproof train {given} --out RUN` trains from them.")
