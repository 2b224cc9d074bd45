"""Attributes the crosscoders of a run on the same text, and writes what was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from crossproof.activations.corpus import TextSlice
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import filled_folder, write_tensors
from crossproof.lm.model import LanguageModel
from crossproof.proof.attribution.figures import AttributedRun
from crossproof.proof.attribution.model_parts import model_parts
from crossproof.proof.attribution.result import AttributionResult
from crossproof.proof.attribution.summary import summarise
from crossproof.proof.attribution.token_bounds import AttributedParts, token_bounds
from crossproof.training.run_folder import RunFolder, objective_label

SCHEMA = 1

AttributionProgress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, sequences done and their number."""


def attribute(
    model: LanguageModel,
    crosscoders: Crosscoder | Mapping[str, Crosscoder] | Path | str,
    text: TextSlice | Int[Tensor, "S T"],
    *,
    parts: AttributedParts = "both",
    top: int = 12,
    out: Path | None = None,
    progress: AttributionProgress | None = None,
) -> AttributionResult:
    """Walks the proof's shape through a model, token by token (docs/attribution.md).

    `crosscoders` are one, several by name, or a run folder; `text` is a corpus or token ids
    [S, T]. `parts` "last-block" leaves out the chain of bounds, which needs a decoder at every
    block; `top` pairs and neurons are named. With `out`, attribution.json is written there and
    per-token figures to NAME.safetensors beside it.

    Raises CrossproofError if a crosscoder explains another model or lacks hookpoints, the model
    has no form that the proof covers, the text has no token with a next one, or `out` cannot be
    written.
    """
    named, labels = _named(model, crosscoders)
    blocks = model_parts(model)
    sequences = text.read(model) if isinstance(text, TextSlice) else text
    for name, crosscoder in named.items():
        if crosscoder.layout.skips:
            raise CrossproofError(
                f"'{name}' has an affine skip beside its latents, which the proof does not cover: "
                f"attribute a dictionary without."
            )
    runs: dict[str, AttributedRun] = {}
    with filled_folder(out):
        for name, crosscoder in named.items():
            tell = None if progress is None else partial(progress, name)
            bounds = token_bounds(
                model, blocks, crosscoder, sequences, parts, top=top, progress=tell
            )
            runs[name] = summarise(bounds, labels.get(name, "objective not recorded"))
            if out is not None:
                tensors = {f"tokens/{key}": values for key, values in bounds.tokens.items()}
                tensors |= {f"last/{key}": values for key, values in bounds.last.items()}
                write_tensors(out / f"{name.replace('/', '-')}.safetensors", tensors)
    about: dict[str, Any] = {}
    if isinstance(text, TextSlice):
        about = {name: value for name, value in asdict(text).items() if value is not None}
    about["sequences"] = len(sequences)
    result = AttributionResult(SCHEMA, model.name, model.weights_hash, runs, about)
    if out is not None:
        result.save(out / "attribution.json")
    return result


def _named(
    model: LanguageModel, crosscoders: Crosscoder | Mapping[str, Crosscoder] | Path | str
) -> tuple[Mapping[str, Crosscoder], dict[str, str]]:
    """Crosscoders by name, and what those of a run folder were trained for."""
    if isinstance(crosscoders, Crosscoder):
        return {"crosscoder": crosscoders}, {}
    if isinstance(crosscoders, Mapping):
        return crosscoders, {}
    folder = RunFolder.open(Path(crosscoders))
    labels = {name: objective_label(folder.provenance(name)) for name in folder.names}
    return folder.crosscoders(model), labels
