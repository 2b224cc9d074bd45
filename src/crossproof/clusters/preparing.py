"""What clusters are made of: a measured crosscoder, text it was not measured on, chosen latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.corpus import TextSlice
from crossproof.clusters.encoded_text import PARTS, EncodedText, Step, deal
from crossproof.clusters.explain import LatentTexts
from crossproof.clusters.settings import JudgedText, LatentChoice, check_measured
from crossproof.clusters.similarities import Evidence, second_differences
from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.measure_run import measurable
from crossproof.evaluation.measured_slices import tally_slices
from crossproof.evaluation.measurement import RunMeasurement
from crossproof.interactions import MLPView, mlp_views, needs_of
from crossproof.interactions.matrix import Interactions
from crossproof.interactions.views import read_by
from crossproof.lm.model import LanguageModel
from crossproof.training.run_folder import RunFolder

FEWEST = 10
"""Latents below which there is nothing to cluster."""
LEAST_SEQUENCES = 2
"""In which a latent must be active, in each part of the text."""
HALF_TOKENS = 100_000
"""Of each half of the measured text, at most, that are measured again for stability."""
HALF_SLICE_TOKENS = 1 << 14
"""Of these, in a slice."""
NEURON_TOKENS = 20_000
"""Of the text that scores clusters, about, for what their neurons do."""
DIFFERENCE_SEQUENCES = 8
"""Of each half of the measured text, for second differences, which are slow."""

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


class NothingToClusterError(CrossproofError):
    """A crosscoder, or one similarity, that makes no clusters: others may."""


@dataclass(frozen=True, eq=False)
class MeasuredCrosscoder:
    """A crosscoder with its interactions and two texts that share no sequence."""

    crosscoder: Crosscoder
    interactions: Interactions
    measured: Int[Tensor, "S T"]
    """The sequences behind the interactions."""
    judged: Int[Tensor, "other T"]
    """Those on which latents are explained and clusters judged."""


def measured_corpus(folder: Path, model: LanguageModel) -> TextSlice:
    """The text that `crossproof measure` measured.

    Raises CrossproofError if the run was not measured, or with another model.
    """
    path = folder / "measure" / "measure.json"
    check_measured(folder)
    measurement = RunMeasurement.load(path)
    if measurement.model_hash != model.weights_hash or measurement.corpus is None:
        raise CrossproofError(
            f"{path} is about a model with other weights than '{model.name}': run `crossproof "
            f"measure {folder}` again.",
            code="CP-NOT-MEASURED",
        )
    return measurement.corpus


def judged_sequences(
    model: LanguageModel, corpus: TextSlice, text: JudgedText
) -> Int[Tensor, "S T"]:
    """Sequences that were not measured: clusters are never judged on the text that made them.

    Raises CrossproofError if none are left.
    """
    source, split = text.source or corpus.text, text.split or corpus.split
    every = replace(corpus, text=source, split=split).every(model)
    same = (source, split) == (corpus.text, corpus.split)
    skip = corpus.skip + corpus.sequences if same else 0
    if len(every) - skip < len(PARTS):
        raise CrossproofError(
            f"The {split} split has {len(every)} sequences and {skip} of them were measured; "
            f"clusters are judged on others: choose another --split or measure fewer --tokens."
        )
    return every[skip : skip + max(len(PARTS), -(-int(text.tokens) // corpus.context))]


def load_measurement(folder: Path, name: str) -> Interactions:
    """The pair sums of one crosscoder of a run. CrossproofError if they are missing."""
    sums = folder / "measure" / name.replace("/", "-")
    if not sums.exists():
        raise CrossproofError(
            f"The crosscoder {name} of {folder} has not been measured: run `crossproof measure "
            f"{folder}` again.",
            code="CP-NOT-MEASURED",
        )
    return Interactions.load(sums)


def measured_crosscoders(
    model: LanguageModel, folder: Path, corpus: TextSlice, text: JudgedText
) -> Iterator[tuple[str, MeasuredCrosscoder]]:
    """The crosscoders of a run folder by name, with both texts; errors as those of its parts."""
    measured, judged = corpus.read(model), judged_sequences(model, corpus, text)
    for name, crosscoder in measurable(model, RunFolder.open(folder).crosscoders(model)).items():
        interactions = load_measurement(folder, name)
        yield name, MeasuredCrosscoder(crosscoder, interactions, measured, judged)


@dataclass(frozen=True, eq=False)
class PreparedCrosscoder:
    """One crosscoder with all that clusters are made of and judged on."""

    name: str
    crosscoder: Crosscoder
    views: Mapping[int, MLPView]
    evidence: Evidence
    halves: tuple[Evidence, ...]
    """The same from either half of the measured text; none where stability is not asked for."""
    texts: LatentTexts
    latents: Int[Tensor, " R"]
    """The chosen ones, ascending."""
    sample: tuple[EncodedBatch, ...] = ()
    """Some of the text that scores clusters, for what their neurons do: with what `views` need."""
    left_out: dict[str, int] = field(default_factory=dict)
    """How many latents are not among them, by reason."""

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Share of measured tokens at which each chosen latent is active, [R]."""
        interactions = self.evidence.interactions
        active = interactions.active[self.latents].double()
        shares: NDArray[np.float64] = (active / interactions.tokens).numpy()
        return shares

    def spread(self, count: int) -> list[int]:
        """At most so many of the chosen latents, spread evenly over their frequencies."""
        ranked = torch.argsort(torch.from_numpy(self.frequencies), descending=True, stable=True)
        step = max(1, -(-len(ranked) // max(count, 1)))
        return sorted(self.latents[ranked[::step]].tolist())


def prepare(
    model: LanguageModel,
    name: str,
    source: MeasuredCrosscoder,
    choice: LatentChoice,
    differences: bool = False,
    stability: bool = True,
    tell: Tell | None = None,
    slices: Path | None = None,
) -> PreparedCrosscoder:
    """Reads both texts and chooses latents.

    `slices`: a folder in which the slices of long texts are kept (`evaluation.slices`); torchrun's
    processes then take them in turn. Of either half of the measured text, up to `HALF_TOKENS` are
    measured again for stability. With `differences`, second differences are measured too. Raises
    NothingToClusterError if fewer than `FEWEST` latents qualify, CrossproofError if the measurement
    is of another dictionary.
    """

    def step(doing: str) -> Step | None:
        return tell and (lambda done, total: tell(doing, done, total))

    crosscoder, interactions, measured = source.crosscoder, source.interactions, source.measured
    if interactions.n_latents != crosscoder.n_latents:
        raise CrossproofError(
            f"The measurement of {name} is of {interactions.n_latents} latents and the crosscoder "
            f"has {crosscoder.n_latents}: measure it again."
        )
    views = mlp_views(model, crosscoder, interactions.blocks, mixtures=True)
    needs = needs_of(views)
    places = [slices and slices / name for name in ("judged", "half-1", "half-2")]
    parts = deal(model, crosscoder, source.judged, step("reading"), places[0])
    latents, left_out = choose_latents(interactions, crosscoder, parts.values(), choice)
    sides = [measured[0::2], measured[1::2]] if len(measured) > 1 else []
    deltas = []
    for side in (sides or [measured]) if differences else []:
        rows = side[:DIFFERENCE_SEQUENCES]
        (batch,) = encode_batches(model, crosscoder, rows, len(rows), needs)
        pairs, seen = coactive_pairs(interactions, latents), read_by(views, batch)
        told = step("second differences")
        deltas.append(second_differences(seen, batch.latents, pairs, told))
    halves = []
    for at, side in enumerate(sides if stability else []):
        half = _half(model, source, side, places[at + 1], step(f"measuring half {at + 1} of 2"))
        halves.append(Evidence(half, crosscoder, deltas[at] if deltas else None))
    evidence = Evidence(interactions, crosscoder, reduce(add, deltas) if deltas else None)
    some = parts["score"].tokens[: -(-NEURON_TOKENS // source.judged.shape[1])]
    sample = encode_batches(model, crosscoder, some, 16, needs)
    return PreparedCrosscoder(
        name,
        crosscoder,
        views,
        evidence,
        tuple(halves),
        LatentTexts(parts),
        latents,
        tuple(batch.latents_only(needs) for batch in sample),
        left_out,
    )


def _half(
    model: LanguageModel,
    source: MeasuredCrosscoder,
    side: Int[Tensor, "S T"],
    slices: Path | None,
    progress: Step | None,
) -> Interactions:
    """The pair sums of one half of the measured text."""
    merged = tally_slices(
        model,
        source.crosscoder,
        side[: max(1, HALF_TOKENS // side.shape[1])],
        slices,
        progress=progress,
        mlps=source.interactions.blocks,
        slice_tokens=HALF_SLICE_TOKENS,
    )
    return merged().interactions


def choose_latents(
    interactions: Interactions,
    crosscoder: Crosscoder,
    parts: Iterable[EncodedText],
    choice: LatentChoice,
) -> tuple[Int[Tensor, " R"], dict[str, int]]:
    """Latents that are neither too rare nor too common, and occur in every part of the text; and
    how many are left out, by the first reason that applies.

    Raises NothingToClusterError if fewer than `FEWEST` are left.
    """
    active = interactions.active.cpu()
    good = torch.ones_like(active, dtype=torch.bool)
    everywhere = [part.active_sequences() >= LEAST_SEQUENCES for part in parts]
    reasons = {
        "never active where measured": active == 0,
        "with zero decoder vectors": (crosscoder.W_dec.detach() == 0).flatten(1).all(1).cpu(),
        f"active on fewer than {choice.min_tokens} measured tokens": active < choice.min_tokens,
        f"active on more than {choice.max_frequency:.0%} of them": (
            active > choice.max_frequency * interactions.tokens
        ),
        "missing from a part of the judged text": ~torch.stack(everywhere).all(0),
    }
    left_out = {}
    for reason, concerned in reasons.items():
        left_out[reason] = int((good & concerned).sum())
        good &= ~concerned
    ranked = torch.argsort(active, descending=True, stable=True)
    ranked = ranked[good[ranked]]
    left_out["beyond --latents"] = max(len(ranked) - choice.latents, 0)
    left_out = {reason: count for reason, count in left_out.items() if count}
    if len(ranked) < FEWEST:
        raise NothingToClusterError(
            f"Only {len(ranked)} of {len(active)} latents can be clustered, and clustering needs "
            f"{FEWEST} ({counted(left_out)}): measure and read more --tokens, or change "
            f"--min-tokens and --max-frequency."
        )
    if len(ranked) > choice.latents:
        middles = (2 * np.arange(choice.latents) + 1) * len(ranked) // (2 * choice.latents)
        ranked = ranked[torch.from_numpy(middles)]
    return ranked.sort().values, left_out


def counted(left_out: Mapping[str, int]) -> str:
    """How many latents are left out, by reason, in words."""
    return "; ".join(f"{count} {reason}" for reason, count in left_out.items()) or "none left out"


def coactive_pairs(interactions: Interactions, latents: Int[Tensor, " R"]) -> Int[Tensor, "M 2"]:
    """The measured pairs whose two latents are both among the chosen ones."""
    chosen = torch.zeros(interactions.n_latents, dtype=torch.bool)
    chosen[latents] = True
    pairs = interactions.pairs.to(torch.int64)
    return pairs[chosen[pairs].all(1)]
