"""Builds the files of one dictionary: two readings of the text, then its pages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.clusters.result import ClusteredRun
from crossproof.crosscoder.encode import EncodedBatch, encode_batches
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.measure_run import MeasureOptions
from crossproof.explorer.curves import Wanted, neuron_examples, pair_neurons
from crossproof.explorer.decoders import logit_effects, nearest, norms, whose
from crossproof.explorer.detail_tally import DetailTally
from crossproof.explorer.facts import dictionary_facts
from crossproof.explorer.format import DictionaryFacts
from crossproof.explorer.layout import neighbour_map
from crossproof.explorer.material import Material
from crossproof.explorer.strings import TokenStrings
from crossproof.explorer.strongest import Ints, Strongest
from crossproof.explorer.text_tally import TextTally
from crossproof.explorer.writing import write_dictionary
from crossproof.interactions.config import MLPs
from crossproof.interactions.measuring import COLUMNS, TokenPairs, check_finite, token_pairs
from crossproof.interactions.views import MixtureView, MLPView, mlp_views, needs_of, read_by
from crossproof.lm.model import LanguageModel

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
STATE = "state.safetensors"
PAUSE = 60.0
"""Seconds between two savings of what has been summed."""
PRE_ACTIVATIONS = 1 << 26
"""Of a batch, at most: 256 MiB of them."""
MEASURED = MeasureOptions().pairs
"""Pairs whose second differences are taken at every token that is read again."""
PARTNERS = 8
"""Of each latent by each form, that a page of the pair is wanted of."""


@dataclass(frozen=True)
class BuildOptions:
    """What a store holds, beside the text it is made from."""

    detail_sequences: int = 256
    """Sequences that are read again, for contexts of pairs and for neurons."""
    pair_tokens: int = 2_000_000
    """Tokens at which interactions are measured, spread evenly over the text; all if it has fewer.
    """
    described: int = 50_000
    """Pairs with a page of their own, at most."""
    batch_sequences: int = 16
    """Sequences a forward pass, at most."""
    mlps: MLPs = "next"
    """The MLPs that read a dictionary."""


@dataclass(frozen=True, eq=False)
class Builder:
    """What is needed for one dictionary's files, and the folder that they go to."""

    model: LanguageModel
    name: str
    crosscoder: Crosscoder
    sequences: Int[Tensor, "S T"]
    options: BuildOptions
    place: Path
    tell: Progress

    def built(self, clusters: ClusteredRun | None) -> DictionaryFacts:
        """Writes tables and pages; what the manifest says of them."""
        views, unread = self._views()
        text = self._text_pass(views)
        details = self._detail_pass(views, text) if views else None
        pairs, neurons = self._examples(views, details) if details else ({}, {})
        self.tell(f"{self.name}: nearest vectors", 0, 1)
        near = nearest(self.crosscoder)
        material = Material(
            sequences=self.sequences,
            strings=TokenStrings(self.model.tokenizer),
            text=text,
            details=details,
            pair_neurons=pairs,
            neuron_examples=neurons,
            blocks=tuple(views),
            norms=norms(self.crosscoder),
            whose=whose(self.crosscoder),
            nearest=near,
            logits=logit_effects(self.model, self.crosscoder),
            map=neighbour_map(*near),
            clusters=clusters,
        )
        write_dictionary(self.place, material, partial(self.tell, f"{self.name}: pages"))
        return dictionary_facts(self.name, self.crosscoder, material, views, unread)

    def _views(self) -> tuple[dict[int, MLPView], str]:
        """The MLPs that read the dictionary, or why none does."""
        try:
            found = mlp_views(self.model, self.crosscoder, self.options.mlps, mixtures=True)
        except CrossproofError as error:
            return {}, str(error)
        for block, view in found.items():
            for each in view.experts if isinstance(view, MixtureView) else (view,):
                check_finite(block, each.dictionary)
        return found, ""

    def _text_pass(self, views: dict[int, MLPView]) -> TextTally:
        path, saved = self.place / STATE, time.monotonic()
        if path.exists():
            tally = TextTally.load(path)
        else:
            tally = TextTally.empty(self.crosscoder.n_latents, len(views))
        for batch in self._batches(views, tally.done, len(self.sequences)):
            tally.add(batch, self._pairs(views, batch))
            self.tell(f"{self.name}: text", tally.done, len(self.sequences))
            if time.monotonic() - saved > PAUSE:
                tally.save(path)
                saved = time.monotonic()
        if tally.tokens == 0:
            raise CrossproofError(
                "There are no tokens to explore: give a text with ordinary tokens."
            )
        tally.pairs.settle()
        tally.save(path)
        return tally

    def _pairs(self, views: dict[int, MLPView], batch: EncodedBatch) -> TokenPairs | None:
        """The batch's pairs, if an MLP reads them and the batch is one of those measured."""
        share = min(1.0, self.options.pair_tokens / self.sequences.numel())
        at = batch.first // self._batch_size
        if not views or ceil((at + 1) * share) == ceil(at * share):
            return None
        return token_pairs(batch.latents, read_by(views, batch), finite=True)

    @property
    def _batch_size(self) -> int:
        """Sequences a batch."""
        row = self.sequences.shape[1] * self.crosscoder.n_latents
        return max(1, min(self.options.batch_sequences, PRE_ACTIVATIONS // row))

    def _batches(self, views: dict[int, MLPView], start: int, stop: int) -> Iterator[EncodedBatch]:
        """Batches of the sequences `start:stop`, numbered among all."""
        some, needs = self.sequences[start:stop], needs_of(views)
        for batch in encode_batches(self.model, self.crosscoder, some, self._batch_size, needs):
            yield replace(batch, first=batch.first + start)

    def _again(self, views: dict[int, MLPView], doing: str) -> Iterator[EncodedBatch]:
        """The sequences that are read again."""
        stop = min(self.options.detail_sequences, len(self.sequences))
        for batch in self._batches(views, 0, stop):
            yield batch
            self.tell(f"{self.name}: {doing}", batch.first + len(batch.tokens), stop)

    def _detail_pass(self, views: dict[int, MLPView], text: TextTally) -> DetailTally:
        key, whole = self._described(text)
        tally = DetailTally.empty(self.crosscoder.n_latents, views, key, whole)
        for batch in self._again(views, "pairs"):
            tally.add(batch, views)
        return tally

    def _described(self, text: TextTally) -> tuple[Ints, NDArray[np.bool_]]:
        """The pairs with a page, the strongest by I among the partners of all latents.

        And which of them are those that `measure` describes.
        """
        chosen = text.pairs.strongest(PARTNERS)
        size = text.pairs.form(COLUMNS["I"])[chosen]
        best = np.argsort(-size, kind="stable")[: self.options.described]
        key = text.pairs.key[chosen[best]]
        order = np.argsort(key)
        return key[order], order < MEASURED

    def _examples(
        self, views: dict[int, MLPView], details: DetailTally
    ) -> tuple[dict[int, str], dict[int, str]]:
        """Neurons at which pairs meet, and contributions to neurons, by place in the contexts."""
        pairs, neurons = _wanted(details.contexts), _wanted(details.examples)
        met: dict[int, str] = {}  # as JSON, which takes a tenth of the memory
        stacks: dict[int, str] = {}
        with torch.no_grad():
            for batch in self._again(views, "neurons"):
                found = pair_neurons(batch, views, pairs, details.key, details.n_latents)
                met |= {int(pairs.place[at]): json.dumps(each) for at, each in found.items()}
                stacked = neuron_examples(batch, views, neurons)
                stacks |= {int(neurons.place[at]): json.dumps(each) for at, each in stacked.items()}
        return met, stacks


def _wanted(tops: Strongest) -> Wanted:
    """The places of all contexts."""
    row, place = np.nonzero(tops.key > 0)
    sequence, position = tops.sequence[row, place], tops.position[row, place]
    return Wanted(row, sequence, position, row * tops.count + place)
