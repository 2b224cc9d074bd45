"""What `crossproof measure` left of a run, and the text that it did not measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from crossproof.activations import read_sequences
from crossproof.clusters.encoded_text import PARTS
from crossproof.clusters.settings import JudgedText, check_measured
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.measure_run import measurable
from crossproof.files import read_json
from crossproof.interactions.matrix import Interactions
from crossproof.lm.model import LanguageModel
from crossproof.training.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class MeasuredCrosscoder:
    """A crosscoder with its interactions and two texts that share no sequence."""

    crosscoder: Crosscoder
    interactions: Interactions
    measured: Int[Tensor, "S T"]
    """The sequences behind the interactions."""
    judged: Int[Tensor, "other T"]
    """Those on which latents are explained and clusters judged."""


def measured_corpus(folder: Path, model: LanguageModel) -> dict[str, Any]:
    """What `crossproof measure` says of the text it measured.

    Raises CrossproofError if the run was not measured, or with another model.
    """
    path = folder / "measure" / "measure.json"
    check_measured(folder)
    content = read_json(path)
    if content.get("model_hash") != model.weights_hash:
        raise CrossproofError(
            f"{path} is about a model with other weights than '{model.name}': run `crossproof "
            f"measure {folder}` again."
        )
    corpus: dict[str, Any] = content["corpus"]
    return corpus


def measured_sequences(model: LanguageModel, corpus: dict[str, Any]) -> Int[Tensor, "S T"]:
    """The sequences that were measured."""
    rows = corpus.get("rows", "packed")
    every = read_sequences(corpus["text"], model, int(corpus["context"]), corpus["split"], rows)
    return every[: int(corpus["sequences"])]


def judged_sequences(
    model: LanguageModel, corpus: dict[str, Any], text: JudgedText
) -> Int[Tensor, "S T"]:
    """Sequences that were not measured: clusters are never judged on the text that made them.

    Raises CrossproofError if none are left.
    """
    source, split = text.source or corpus["text"], text.split or corpus["split"]
    context = int(corpus["context"])
    every = read_sequences(source, model, context, split, corpus.get("rows", "packed"))
    same = (source, split) == (corpus["text"], corpus["split"])
    skip = int(corpus["sequences"]) if same else 0
    if len(every) - skip < len(PARTS):
        raise CrossproofError(
            f"The {split} split has {len(every)} sequences and {skip} of them were measured; "
            f"clusters are judged on others: choose another --split or measure fewer --tokens."
        )
    return every[skip : skip + max(len(PARTS), -(-text.tokens // context))]


def load_measurement(folder: Path, name: str) -> Interactions:
    """The pair sums of one crosscoder of a run. CrossproofError if they are missing."""
    sums = folder / "measure" / name.replace("/", "-")
    if not sums.exists():
        raise CrossproofError(
            f"The crosscoder {name} of {folder} has not been measured: run `crossproof measure "
            f"{folder}` again."
        )
    return Interactions.load(sums)


def measured_crosscoders(
    model: LanguageModel, folder: Path, corpus: dict[str, Any], text: JudgedText
) -> Iterator[tuple[str, MeasuredCrosscoder]]:
    """The crosscoders of a run folder by name, with both texts; errors as those of its parts."""
    measured, judged = measured_sequences(model, corpus), judged_sequences(model, corpus, text)
    for name, crosscoder in measurable(RunFolder.open(folder).crosscoders(model)).items():
        interactions = load_measurement(folder, name)
        yield name, MeasuredCrosscoder(crosscoder, interactions, measured, judged)
