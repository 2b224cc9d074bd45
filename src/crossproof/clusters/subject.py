"""What is known of one crosscoder before anything is clustered: measurements, texts, latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.activations import read_sequences
from crossproof.clusters.config import Choice as Choice
from crossproof.clusters.config import Text as Text
from crossproof.clusters.places import coactive_pairs, differences_of
from crossproof.clusters.reading import PARTS, Reading, deal
from crossproof.clusters.similarities import Evidence, PairValues
from crossproof.clusters.trials import Floats
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.measure import mlp_views
from crossproof.evaluation.pair_sums import measure
from crossproof.files import read_json
from crossproof.interactions.contributions import MLPDictionary
from crossproof.interactions.matrix import Interactions
from crossproof.lm.model import LanguageModel

FEWEST = 10
"""Latents below which there is nothing to cluster."""
LEAST_SEQUENCES = 2
"""In which a latent must be active, in each part of the text."""
HALF_TOKENS = 100_000
"""Of each half of the measured text, at most, that are measured again for stability."""
DIFFERENCE_SEQUENCES = 8
"""Of each half of the measured text, for second differences, which are slow."""

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One crosscoder with all that clusters are made of and judged on."""

    name: str
    crosscoder: Crosscoder
    views: dict[int, MLPDictionary]
    evidence: Evidence
    halves: tuple[Evidence, ...]
    """The same from either half of the measured text; none where stability is not asked for."""
    readings: dict[str, Reading]
    """By part of `PARTS`."""
    latents: Int[Tensor, " R"]
    """The chosen ones, ascending."""

    @property
    def frequencies(self) -> Floats:
        """Share of measured tokens at which each chosen latent is active, [R]."""
        found = self.evidence.interactions
        shares: Floats = (found.active[self.latents].double() / found.tokens).numpy()
        return shares

    def spread(self, count: int) -> list[int]:
        """At most so many of the chosen latents, spread evenly over their frequencies."""
        ranked = torch.argsort(torch.from_numpy(self.frequencies), descending=True, stable=True)
        step = max(1, -(-len(ranked) // max(count, 1)))
        return sorted(self.latents[ranked[::step]].tolist())


def measured_corpus(folder: Path, model: LanguageModel) -> dict[str, Any]:
    """What `crossproof measure` says of the text it measured.

    Raises CrossproofError if the run was not measured, or with another model.
    """
    path = folder / "measure" / "measure.json"
    if not path.exists():
        raise CrossproofError(
            f"{folder} has not been measured: run `crossproof measure {folder}` first."
        )
    content = read_json(path)
    if content.get("model_hash") != model.weights_hash:
        raise CrossproofError(
            f"{path} is about a model with other weights than '{model.name}': run `crossproof "
            f"measure {folder}` again."
        )
    corpus: dict[str, Any] = content["corpus"]
    return corpus


def judged_sequences(
    model: LanguageModel, measured: dict[str, Any], text: Text
) -> Int[Tensor, "S T"]:
    """Sequences that were not measured: clusters are never judged on the text that made them.

    Raises CrossproofError if none are left.
    """
    source, split = text.source or measured["text"], text.split or measured["split"]
    context = int(measured["context"])
    every = read_sequences(source, model, context, split)
    same = (source, split) == (measured["text"], measured["split"])
    skip = int(measured["sequences"]) if same else 0
    if len(every) - skip < len(PARTS):
        raise CrossproofError(
            f"The {split} split has {len(every)} sequences and {skip} of them were measured; "
            f"clusters are judged on others: choose another --split or measure fewer --tokens."
        )
    return every[skip : skip + max(len(PARTS), -(-text.tokens // context))]


def load_measurement(folder: Path, name: str) -> Interactions:
    """The pair sums of one crosscoder of a run. CrossproofError if they are missing."""
    where = folder / "measure" / name.replace("/", "-")
    if not where.exists():
        raise CrossproofError(
            f"The crosscoder {name} of {folder} has not been measured: run `crossproof measure "
            f"{folder}` again."
        )
    return Interactions.load(where)


def prepare(
    model: LanguageModel,
    name: str,
    crosscoder: Crosscoder,
    found: Interactions,
    measured: Int[Tensor, "S T"],
    judged: Int[Tensor, "other T"],
    choice: Choice = Choice(),  # noqa: B008  (frozen)
    differences: bool = False,
    stability: bool = True,
    tell: Tell | None = None,
) -> Subject:
    """Reads both texts and chooses latents.

    `measured` are the sequences behind `found`; of either half of them, up to `HALF_TOKENS` are
    measured again for stability. `judged` are others. Raises CrossproofError if fewer than `FEWEST`
    latents qualify, or the measurement is of another dictionary.
    """
    if found.n_latents != crosscoder.n_latents:
        raise CrossproofError(
            f"The measurement of {name} is of {found.n_latents} latents and the crosscoder has "
            f"{crosscoder.n_latents}: measure it again."
        )
    views = mlp_views(model, crosscoder)
    readings = deal(model, crosscoder, judged, _step(tell, "reading"))
    latents = choose_latents(found, readings, choice)
    sides = [measured[0::2], measured[1::2]] if len(measured) > 1 else []
    parts = []
    if differences:
        pairs = coactive_pairs(found, latents)
        for i, side in enumerate(sides or [measured]):
            code = Reading.read(model, crosscoder, side[:DIFFERENCE_SEQUENCES]).latents
            parts.append(_differences(views, code, pairs, _step(tell, f"second differences {i}")))
    halves = []
    if stability:
        longest = max(1, HALF_TOKENS // measured.shape[1])
        for i, side in enumerate(sides):
            half = measure(model, crosscoder, side[:longest], progress=_step(tell, f"half {i + 1}"))
            own = parts[i] if parts else None
            halves.append(Evidence(half.interactions, crosscoder, own))
    whole = _sum(parts) if parts else None
    evidence = Evidence(found, crosscoder, whole)
    return Subject(name, crosscoder, views, evidence, tuple(halves), readings, latents)


def choose_latents(
    found: Interactions, readings: dict[str, Reading], choice: Choice
) -> Int[Tensor, " R"]:
    """Latents that are neither too rare nor too common, and occur in every part of the text."""
    active = found.active.cpu()
    good = (active >= choice.min_tokens) & (active <= choice.max_frequency * found.tokens)
    for reading in readings.values():
        good &= reading.active_sequences() >= LEAST_SEQUENCES
    ranked = torch.argsort(active, descending=True, stable=True)
    ranked = ranked[good[ranked]]
    if len(ranked) < FEWEST:
        raise CrossproofError(
            f"Only {len(ranked)} latents are active on {choice.min_tokens} or more measured "
            f"tokens, on at most {choice.max_frequency:.0%} of them, and in every part of the "
            f"text; clustering needs {FEWEST}: measure and read more --tokens."
        )
    if len(ranked) > choice.latents:
        places = (2 * np.arange(choice.latents) + 1) * len(ranked) // (2 * choice.latents)
        ranked = ranked[torch.from_numpy(places)]
    return ranked.sort().values


def _differences(
    views: dict[int, MLPDictionary], code: Any, pairs: Int[Tensor, "M 2"], step: Any
) -> PairValues:
    parts = []
    for done, (block, view) in enumerate(views.items(), 1):
        parts.append(differences_of({block: view}, code, pairs))
        if step is not None:
            step(done, len(views))
    return _sum(parts)


def _sum(parts: list[PairValues]) -> PairValues:
    return reduce(add, parts)


def _step(tell: Tell | None, doing: str) -> Callable[[int, int], None] | None:
    if tell is None:
        return None
    return lambda done, total: tell(doing, done, total)
