"""Which language model a command reads, and how: options that commands on a run folder share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from crossproof.commands.early import check_model
from crossproof.errors import CrossproofError
from crossproof.training.config import Precision, RunConfig, config_from_dict
from crossproof.working import working

if TYPE_CHECKING:
    from crossproof.lm import LanguageModel

RUNS = tyro.conf.arg(metavar="PATH", help_behavior_hint="(required)")
"""How --help shows the run folders of a command that takes several."""


def first_run(runs: Sequence[Path], together: bool) -> Path:
    """The folder that says which model; CrossproofError for none, or for several one by one."""
    if not runs:
        raise CrossproofError(
            "No run folder is given: name one, such as runs/demo, which `crossproof demo` makes."
        )
    if len(runs) > 1 and not together:
        raise CrossproofError(
            f"{len(runs)} folders are given: one at a time, or --together for all their "
            f"dictionaries at once."
        )
    return runs[0]


@dataclass(frozen=True)
class ModelOptions:
    """By default all is as it was when the crosscoders were trained."""

    model: str | None = None
    """The language model; by default the one the crosscoder was trained on."""
    dtype: Precision | None = None
    """In which it runs; by default the run's. Its weights are others in another."""
    device: str | None = None
    """cpu, or any other device PyTorch knows; by default the run's."""
    trust_remote_code: bool = False
    """Run the code that the model brings, if transformers does not know its kind. Never taken
    from a run folder: read that code before."""

    def check(self) -> None:
        """Raises CrossproofError for a --model that can only be a path, and is none."""
        check_model(self.model)

    def load(self, run: Path) -> tuple[LanguageModel, RunConfig]:
        """The model, and the configuration of the run; errors as `load_model` and `RunFolder`."""
        from crossproof.lm import load_model
        from crossproof.lm.sources import exists
        from crossproof.training.distributed import local_device
        from crossproof.training.run_folder import RunFolder

        provenance = RunFolder.open(run).provenance()
        config = config_from_dict(dict(provenance.training))
        try:
            with working("loading the language model"):
                model = load_model(
                    self.model or provenance.model,
                    device=local_device(self.device or config.device),
                    dtype=self.dtype or config.dtype,
                    trust_remote_code=self.trust_remote_code,
                )
        except CrossproofError as error:
            if self.model is not None or exists(provenance.model):
                raise
            raise CrossproofError(
                f"{error} (The crosscoders in {run} explain that model: give --model if it is "
                f"elsewhere now.)",
                code=error.code,
            ) from error
        return model, config
