"""Attributes the crosscoders of a run folder and writes what it finds beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from crossproof.activations.corpus import TextSlice
from crossproof.errors import CrossproofError
from crossproof.files import write_json
from crossproof.lm import LanguageModel
from crossproof.proof.attribution.places import model_parts
from crossproof.proof.attribution.stream import Attribution, Parts, attribute
from crossproof.proof.attribution.summary import summarise
from crossproof.training.run_folder import check_model, objective_label, run_crosscoders

SCHEMA = 1

Progress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, sequences done and their number."""


def attribute_runs(
    model: LanguageModel,
    folder: Path,
    output: Path,
    held_out: TextSlice,
    which: Parts = "both",
    top: int = 12,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attributes every crosscoder of a run on the same sequences; writes attribution.json.

    Per-token figures go to NAME.safetensors beside it. Returns the content of attribution.json.
    Raises CrossproofError if a crosscoder explains another model or lacks hookpoints, or if the
    model has no form that the proof covers.
    """
    found = run_crosscoders(folder)
    for _, provenance in found.values():
        check_model(model, provenance, folder)
    parts = model_parts(model)
    sequences = held_out.read(model)
    known = {key: value for key, value in asdict(held_out).items() if value is not None}
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "model": model.name,
        "model_hash": model.weights_hash,
        "attributed_on": known | {"sequences": len(sequences)},
        "runs": {},
    }
    _make(output)
    for name, (crosscoder, provenance) in found.items():

        def tell(done: int, total: int, name: str = name) -> None:
            if progress is not None:
                progress(name, done, total)

        result = attribute(model, parts, crosscoder, sequences, which, top=top, progress=tell)
        label = {"objective": objective_label(provenance)}
        content["runs"][name] = label | summarise(result)
        _save(result, output / f"{name}.safetensors")
    write_json(output / "attribution.json", content)
    return content


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {folder} ({error.strerror}): choose a writable folder."
        ) from error


def _save(found: Attribution, path: Path) -> None:
    """Every per-token array, those of the chains before "tokens/", of the last block "last/"."""
    tensors = {f"tokens/{name}": values.contiguous().cpu() for name, values in found.tokens.items()}
    tensors |= {f"last/{name}": values.contiguous().cpu() for name, values in found.last.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file(tensors, temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise CrossproofError(f"Cannot write {path} ({error}): choose a writable folder.") from None
