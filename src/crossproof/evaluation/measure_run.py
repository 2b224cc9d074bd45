"""Measuring how latents interact: one crosscoder in memory, or those of run folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from crossproof.activations.corpus import TextSlice
from crossproof.activations.positions import check_sequences
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.side_by_side import side_by_side
from crossproof.errors import CrossproofError
from crossproof.evaluation.attention import AttentionScores, attention_scores
from crossproof.evaluation.contexts import LatentExample, contexts_in
from crossproof.evaluation.measured_slices import tally_slices
from crossproof.evaluation.measurement import MeasurementResult, PairFigures, RunMeasurement
from crossproof.evaluation.pair_contexts import PairExample, pair_examples, pair_shapley
from crossproof.evaluation.pair_summary import owners, ratios, square, totals
from crossproof.evaluation.pair_sums import InteractionTally, tally_interactions
from crossproof.evaluation.slices import SLICES, forget
from crossproof.files import check_replaceable, filled_folder
from crossproof.interactions.config import MLPs
from crossproof.interactions.matrix import FACTS_FILE, SUMS, Form, Interactions
from crossproof.interactions.views import mlp_views
from crossproof.lm import LanguageModel
from crossproof.training import distributed
from crossproof.training.run_folder import RunFolder

TOGETHER = "together"
"""The name of several dictionaries side by side."""
LATENT_CONTEXTS = 2
"""Contexts of each latent of a pair."""

Progress = Callable[[str, int, int], None]
"""Called with a crosscoder's name, sequences measured and their number."""


@dataclass(frozen=True)
class MeasureOptions:
    """What `measure` describes, beside the sums over all pairs."""

    pairs: int = 12
    """How many of the strongest pairs to describe."""
    attention: bool = True
    """Measure what attention scores are made of, too."""
    shapley_tokens: int = 2
    """Tokens a pair, of most interaction, at which Shapley-Taylor indices are computed; 0: none."""
    context_sequences: int = 256
    """Contexts and second differences come from about this many sequences at most."""
    batch_sequences: int = 16
    """Sequences a forward pass."""
    mlps: MLPs = "next"
    """The MLPs that read the dictionary: `interactions.mlp_views`."""


def measure(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    options: MeasureOptions = MeasureOptions(),
    progress: Callable[[int, int], None] | None = None,
) -> MeasurementResult:
    """How the crosscoder's latents interact on sequences of tokens [S, T].

    The exact sums over all pairs themselves are `tally_interactions(...).interactions`. Raises
    CrossproofError if there are no tokens, or none of a model, or no MLP reads the crosscoder.
    """
    check_sequences(sequences)
    size, kept = options.batch_sequences, options.context_sequences
    tally = tally_interactions(model, crosscoder, sequences, size, progress, kept, options.mlps)
    return _described(model, crosscoder, sequences, tally, options)


def measure_runs(
    model: LanguageModel,
    folders: list[Path],
    output: Path,
    text: TextSlice,
    options: MeasureOptions = MeasureOptions(),
    progress: Progress | None = None,
    together: bool = False,
) -> RunMeasurement:
    """Measures every crosscoder of `folders`; writes sums and measure.json into `output`.

    With `together` all of them as one: contributions of all their latents stand side by side. With
    several crosscoders, each is compared with the first (`ratios`) if it decodes at the same
    MLPs' inputs; those that none of the MLPs reads are passed over if another is read. Processes of
    torchrun share out a text, and the first writes and returns what was measured. Raises
    CrossproofError if a crosscoder explains another model, or if none is read.
    """
    sequences, size, kept = text.read(model), options.batch_sequences, options.context_sequences
    result = RunMeasurement(
        model=model.name,
        model_hash=model.weights_hash,
        corpus=replace(text, sequences=len(sequences)),
    )
    first: InteractionTally | None = None
    parts = output / SLICES
    crosscoders = named_crosscoders(model, folders)
    if together:
        crosscoders = {TOGETHER: side_by_side(model, crosscoders)}
    crosscoders = measurable(model, crosscoders, options.mlps)
    with filled_folder(output):  # what cannot be written is said before it is measured
        for name in crosscoders:
            check_replaceable(output / name.replace("/", "-"), (SUMS, FACTS_FILE))
        for name, crosscoder in crosscoders.items():
            tell = None if progress is None else partial(progress, name)
            again = None if progress is None else partial(progress, f"strongest pairs of {name}")
            flat = name.replace("/", "-")
            passing = size, tell, kept, options.mlps
            merged = tally_slices(model, crosscoder, sequences, parts / flat, *passing)
            if distributed.rank() > 0:
                continue
            tally = merged()
            tally.interactions.save(output / flat)
            result.runs[name] = _described(model, crosscoder, sequences, tally, options, again)
            if first is not None and first.interactions.blocks == tally.interactions.blocks:
                result.ratios[name] = ratios(first, tally)
            first = tally if first is None else first
        if distributed.rank() == 0:
            result.save(output / "measure.json")
    forget(parts)
    return result


def measurable(
    model: LanguageModel, crosscoders: dict[str, Crosscoder], mlps: MLPs = "next"
) -> dict[str, Crosscoder]:
    """Those that some MLP reads; if none is, all, so that measuring says so."""
    some = {name: c for name, c in crosscoders.items() if _is_read(model, c, mlps)}
    return some or crosscoders


def _is_read(model: LanguageModel, crosscoder: Crosscoder, mlps: MLPs) -> bool:
    try:
        return bool(mlp_views(model, crosscoder, mlps, mixtures=True))
    except CrossproofError:  # raised again, with its reason, if no crosscoder is read
        return False


def named_crosscoders(model: LanguageModel, folders: list[Path]) -> dict[str, Crosscoder]:
    """Crosscoders by name; names of a second folder's are preceded by that folder's."""
    named: dict[str, Crosscoder] = {}
    for folder in folders:
        for name, crosscoder in RunFolder.open(folder).crosscoders(model).items():
            full = name if folder == folders[0] else f"{folder.name}/{name}"
            if full in named:
                raise CrossproofError(
                    f"There are two crosscoders named {full}: give folders with different names."
                )
            named[full] = crosscoder
    return named


def _described(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    tally: InteractionTally,
    options: MeasureOptions,
    progress: Callable[[int, int], None] | None = None,
) -> MeasurementResult:
    sums = tally.interactions
    return MeasurementResult(
        tokens=sums.tokens,
        pairs=len(sums.pairs),
        blocks=sums.blocks,
        gated=sums.gated,
        views=tally.views,
        dictionaries=dict(crosscoder.members),
        seconds={name: round(value, 2) for name, value in tally.seconds.items()},
        totals=totals(tally),
        owners=owners(sums),
        matrix=square(sums),
        top_pairs=_top_pairs(model, crosscoder, tally, options, progress),
        attention=_attention(model, crosscoder, sequences) if options.attention else None,
    )


def _top_pairs(
    model: LanguageModel,
    crosscoder: Crosscoder,
    tally: InteractionTally,
    options: MeasureOptions,
    progress: Callable[[int, int], None] | None,
) -> tuple[PairFigures, ...]:
    sums, views = tally.interactions, mlp_views(model, crosscoder, options.mlps, mixtures=True)
    rows = sums.top_pairs(options.pairs, normalise="sum")
    pairs = [(int(h), int(k)) for h, k in sums.pairs[rows].tolist()]
    examples = pair_examples(model.tokenizer, tally.encoded, views, pairs, progress=progress)
    latents = sorted({latent for pair in pairs for latent in pair})
    alone = contexts_in(model.tokenizer, tally.encoded, latents, LATENT_CONTEXTS)
    by_latent = {example.latent: example for example in alone}
    figures = []
    for row, example in zip(rows.tolist(), examples, strict=True):
        shapley = pair_shapley(example.peaks[: options.shapley_tokens], example.latents)
        figures.append(_pair_figures(sums, row, example, by_latent, shapley))
    return tuple(figures)


def _pair_figures(
    sums: Interactions,
    row: int,
    example: PairExample,
    latents: dict[int, LatentExample],
    shapley: float | None,
) -> PairFigures:
    h, k = example.latents

    def size(form: Form, block: int | None = None) -> float:
        return float(sums.pair_sums(form, normalise="coactive", block=block)[row])

    return PairFigures(
        latents=(h, k),
        coactive=int(sums.coactive[row]),
        active=(int(sums.active[h]), int(sums.active[k])),
        per_token=float(sums.pair_sums("I", normalise="mean")[row]),
        per_coactive_token={form: size(form) for form in sums.forms},
        second_difference=example.second_difference,
        by_block={str(block): size("I", block) for block in sums.blocks},
        contexts=example.contexts,
        latent_contexts=tuple(latents[latent].contexts for latent in (h, k)),
        shapley_taylor=shapley,
    )


def _attention(
    model: LanguageModel, crosscoder: Crosscoder, sequences: Int[Tensor, "S T"]
) -> AttentionScores:
    """The parts of attention scores, or the reason why there are none."""
    try:
        return attention_scores(model, crosscoder, sequences)
    except CrossproofError as error:
        return AttentionScores(missing=str(error))
