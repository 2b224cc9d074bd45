"""What is known of one crosscoder before anything is clustered: measurements, texts, latents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.clusters.encoded_text import EncodedText, Step, deal
from crossproof.clusters.explain import LatentTexts
from crossproof.clusters.measured_run import MeasuredCrosscoder
from crossproof.clusters.settings import LatentChoice
from crossproof.clusters.similarities import Evidence, PairValues, second_differences
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.pair_sums import tally_interactions
from crossproof.interactions import input_dictionaries
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
class PreparedCrosscoder:
    """One crosscoder with all that clusters are made of and judged on."""

    name: str
    crosscoder: Crosscoder
    views: Mapping[int, MLPDictionary]
    evidence: Evidence
    halves: tuple[Evidence, ...]
    """The same from either half of the measured text; none where stability is not asked for."""
    texts: LatentTexts
    latents: Int[Tensor, " R"]
    """The chosen ones, ascending."""

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
) -> PreparedCrosscoder:
    """Reads both texts and chooses latents.

    Of either half of the measured text, up to `HALF_TOKENS` are measured again for stability. With
    `differences`, second differences are measured too. Raises CrossproofError if fewer than
    `FEWEST` latents qualify, or the measurement is of another dictionary.
    """
    crosscoder, interactions, measured = source.crosscoder, source.interactions, source.measured
    if interactions.n_latents != crosscoder.n_latents:
        raise CrossproofError(
            f"The measurement of {name} is of {interactions.n_latents} latents and the crosscoder "
            f"has {crosscoder.n_latents}: measure it again."
        )
    views = input_dictionaries(model, crosscoder)
    parts = deal(model, crosscoder, source.judged, _step(tell, "reading"))
    latents = choose_latents(interactions, parts.values(), choice)
    sides = [measured[0::2], measured[1::2]] if len(measured) > 1 else []
    deltas: list[PairValues] = []
    if differences:
        pairs = coactive_pairs(interactions, latents)
        for i, side in enumerate(sides or [measured]):
            step = _step(tell, f"second differences {i}")
            some = side[:DIFFERENCE_SEQUENCES]
            deltas.append(_second_differences(model, crosscoder, views, some, pairs, step))
    halves: list[Evidence] = []
    if stability:
        longest = max(1, HALF_TOKENS // measured.shape[1])
        for i, side in enumerate(sides):
            half = tally_interactions(
                model, crosscoder, side[:longest], progress=_step(tell, f"half {i + 1}")
            )
            halves.append(Evidence(half.interactions, crosscoder, deltas[i] if deltas else None))
    evidence = Evidence(interactions, crosscoder, reduce(add, deltas) if deltas else None)
    return PreparedCrosscoder(
        name, crosscoder, views, evidence, tuple(halves), LatentTexts(parts), latents
    )


def choose_latents(
    interactions: Interactions, parts: Iterable[EncodedText], choice: LatentChoice
) -> Int[Tensor, " R"]:
    """Latents that are neither too rare nor too common, and occur in every part of the text."""
    active = interactions.active.cpu()
    good = (active >= choice.min_tokens) & (active <= choice.max_frequency * interactions.tokens)
    for part in parts:
        good &= part.active_sequences() >= LEAST_SEQUENCES
    ranked = torch.argsort(active, descending=True, stable=True)
    ranked = ranked[good[ranked]]
    if len(ranked) < FEWEST:
        raise CrossproofError(
            f"Only {len(ranked)} latents are active on {choice.min_tokens} or more measured "
            f"tokens, on at most {choice.max_frequency:.0%} of them, and in every part of the "
            f"text; clustering needs {FEWEST}: measure and read more --tokens."
        )
    if len(ranked) > choice.latents:
        middles = (2 * np.arange(choice.latents) + 1) * len(ranked) // (2 * choice.latents)
        ranked = ranked[torch.from_numpy(middles)]
    return ranked.sort().values


def coactive_pairs(interactions: Interactions, latents: Int[Tensor, " R"]) -> Int[Tensor, "M 2"]:
    """The measured pairs whose two latents are both among the chosen ones."""
    chosen = torch.zeros(interactions.n_latents, dtype=torch.bool)
    chosen[latents] = True
    pairs = interactions.pairs.to(torch.int64)
    return pairs[chosen[pairs].all(1)]


def _second_differences(
    model: LanguageModel,
    crosscoder: Crosscoder,
    views: Mapping[int, MLPDictionary],
    sequences: Int[Tensor, "S T"],
    pairs: Int[Tensor, "M 2"],
    step: Step | None,
) -> PairValues:
    latents = EncodedText.read(model, crosscoder, sequences).latents
    blocks = []
    for done, (block, view) in enumerate(views.items(), 1):
        blocks.append(second_differences({block: view}, latents, pairs))
        if step is not None:
            step(done, len(views))
    return reduce(add, blocks)


def _step(tell: Tell | None, doing: str) -> Step | None:
    if tell is None:
        return None
    return lambda done, total: tell(doing, done, total)
