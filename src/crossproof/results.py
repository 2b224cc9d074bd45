"""results.json: the figures of a run folder, for other programs (docs/results-format.md)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from crossproof.activations import read_sequences
from crossproof.activations.corpus import Split
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import Provenance, load_crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation import EvaluationOptions, evaluate
from crossproof.lm import LanguageModel
from crossproof.training.config import RunConfig
from crossproof.training.objectives import Objective

SCHEMA = 1

SequenceProgress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, the sequences evaluated and their number."""


@dataclass(frozen=True)
class HeldOut:
    """The text that crosscoders are evaluated on."""

    text: str
    split: Split
    sequences: int
    context: int
    skip: int = 0
    """Sequences at the beginning of the split that are passed over."""

    def read(self, model: LanguageModel) -> Int[Tensor, "S T"]:
        """The sequences [S, T]; CrossproofError if none is left."""
        every = read_sequences(self.text, model, self.context, self.split)
        if self.skip >= len(every):
            raise CrossproofError(
                f"The {self.split} split has {len(every)} sequences and {self.skip} are skipped: "
                f"skip fewer."
            )
        return every[self.skip : self.skip + self.sequences]


def run_crosscoders(folder: Path) -> dict[str, tuple[Crosscoder, Provenance]]:
    """The finished crosscoders below a run folder, by name (or the one in a crosscoder folder).

    Raises CrossproofError if there is none.
    """
    if (folder / "crosscoder.safetensors").exists():
        return {"crosscoder": load_crosscoder(folder)}
    found = {
        path.parent.name: load_crosscoder(path) for path in sorted(folder.glob("*/crosscoder"))
    }
    if not found:
        raise CrossproofError(
            f"No finished crosscoder in {folder}: give a run folder written by `crossproof train` "
            f"(resume it if it was stopped)."
        )
    order = sorted(found, key=lambda name: (name != "unpenalised", name))
    return {name: found[name] for name in order}


def check_model(model: LanguageModel, provenance: Provenance, where: Path) -> None:
    """Raises CrossproofError if the crosscoder was trained on a model with other weights."""
    if model.weights_hash != provenance.weights_hash:
        raise CrossproofError(
            f"The crosscoder in {where} explains '{provenance.model}' (weights "
            f"{provenance.weights_hash}), not '{model.name}' (weights {model.weights_hash}): load "
            f"the model it was trained on."
        )


def objective_label(provenance: Provenance) -> str:
    """What a crosscoder was trained for, or which libraries' dictionaries it was imported from."""
    origins = provenance.training.get("imported", [])
    if origins:
        return "imported: " + ", ".join(sorted({str(origin["format"]) for origin in origins}))
    return Objective(**provenance.training.get("objective", {})).describe()


def evaluate_run(
    model: LanguageModel,
    folder: Path,
    held_out: HeldOut,
    options: EvaluationOptions,
    progress: SequenceProgress | None = None,
) -> dict[str, Any]:
    """Evaluates every crosscoder of a run on the same held-out sequences; the `runs` entry."""
    sequences = held_out.read(model)
    runs: dict[str, Any] = {}
    for name, (crosscoder, provenance) in run_crosscoders(folder).items():
        check_model(model, provenance, folder)

        def tell(done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(name, done, total)

        figures = evaluate(model, crosscoder, sequences, options, tell)
        label = {"objective": objective_label(provenance)}
        runs[name] = label | figures | {"training": dict(provenance.training)}
    return runs


def results(
    model: LanguageModel, config: RunConfig, held_out: HeldOut, runs: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """The whole of results.json; of imported crosscoders nothing is said about training."""
    training = {
        "seed": config.seed,
        "steps": config.steps,
        "batch_tokens": config.batch_tokens,
        "tokens": config.steps * config.batch_tokens,
    }
    return {
        "schema": SCHEMA,
        "model": model.name,
        "model_hash": model.weights_hash,
        **(training if config.steps else {}),
        "seconds": round(seconds, 1),
        "evaluated_on": asdict(held_out),
        "runs": runs,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON under a temporary name and renames it; CrossproofError if it cannot."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {path} ({error.strerror}): choose a writable folder."
        ) from error
