"""The figures of a crosscoder on held-out sequences, each with an interval over sequences.

Where a position is not scored (`scored_positions`, as in training) its activations stay the model's
own and its loss does not count. No figure depends on how sequences are batched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations import survey_norms, within_limits
from crossproof.activations.config import MASSIVE
from crossproof.activations.positions import check_sequences
from crossproof.crosscoder.encode import ALL, encode_batches, for_figures
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.keep_curve import keep_counts, kept_losses
from crossproof.evaluation.patching import DecodedBatch, decode_batches
from crossproof.evaluation.replacing import replacement_of, tally_replaced
from crossproof.evaluation.results import EvaluationResult
from crossproof.evaluation.schemes import ablations
from crossproof.evaluation.slices import cut, read_slices, subject_of, telling
from crossproof.evaluation.summary import summarise
from crossproof.evaluation.tally import BEYOND, EvaluationOptions, Tally
from crossproof.evaluation.token_figures import token_figures
from crossproof.interactions.stream import ExpertView, TokenMixture, TokenView
from crossproof.interactions.views import (
    MLPView,
    is_upstream,
    mlp_views,
    n_neurons,
    needs_of,
    with_mean_rest,
)
from crossproof.lm.model import LanguageModel
from crossproof.lm.stream import mlp_out
from crossproof.working import told

REST_SEQUENCES = 64
"""The mean rest is that of so many of the sequences."""
SLICE_TOKENS = 1 << 13
"""A slice's, about: a sequence costs a hundred passes of the model."""


def evaluate(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  (frozen)
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """All figures of one crosscoder, and a few of its latents with their strongest contexts.

    `sequences` are tokens [S, T], held out from training. `progress` is called with sequences
    done and their number. Raises CrossproofError if there are fewer than two sequences.
    """
    check_sequences(sequences)
    crosscoder = for_figures(crosscoder)
    tally = tally_sequences(model, crosscoder, sequences, options, progress)
    return summarise(model, crosscoder, tally, options)


def tally_sequences(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  (frozen)
    progress: Callable[[int, int], None] | None = None,
    known: Mapping[str, NDArray[np.float64]] | None = None,
    slices: Path | None = None,
) -> Tally:
    """The per-sequence sums behind `evaluate`, and the latents of the first sequences.

    `known`: sums among `SHARED`, which do not depend on the crosscoder, of the same model,
    hookpoints, positions and sequences. `slices`: a folder in which those of a long text are kept
    (`evaluation.slices`); torchrun's processes then take them in turn. Raises as `evaluate`.
    """
    if len(sequences) < 2:
        raise CrossproofError("Evaluation needs at least 2 sequences: give a longer text.")
    if not crosscoder.written:
        raise CrossproofError("All decoder vectors are zero: give a dictionary that was trained.")
    names, size = crosscoder.hookpoints.names, options.batch_sequences
    views, unread = _views(model, crosscoder, options)
    live, unreplaced = replacement_of(model, crosscoder)
    survey = survey_norms(model, sequences, names, crosscoder.positions)
    begun = Tally(views, unread, unreplaced, survey=survey)
    rest = sequences[:REST_SEQUENCES]
    means = _mean_rests(model, crosscoder, rest, views, options)

    def read(first: int, part: Tensor) -> dict[str, Tensor]:
        tally = Tally(views, survey=survey)
        batches = decode_batches(model, crosscoder, part, size, views, first)
        tell = telling(progress, first, len(sequences))
        for batch in told(batches, lambda each: each.encoded.end - first, len(part), tell):
            with torch.no_grad():
                _measure(batch, tally, means, options, known or {}, live, sequences[:size])
        return tally.rows()

    subject = partial(subject_of, model, crosscoder, options, rest)
    for rows in read_slices(slices, cut(sequences, size, SLICE_TOKENS), subject, read):
        begun.take(rows)
    shown = sequences[: -(-options.context_sequences // size) * size]
    batches = encode_batches(model, crosscoder, shown, size)
    begun.encoded += [batch.latents_only() for batch in batches]
    return begun


def _measure(
    batch: DecodedBatch,
    tally: Tally,
    means: Mapping[int, MLPView],
    options: EvaluationOptions,
    known: Mapping[str, NDArray[np.float64]],
    live: Crosscoder | None,
    beginning: Int[Tensor, "S T"],
) -> None:
    views = tally.views
    _measure_reconstruction(batch, tally)
    _measure_interactions(batch, views, tally)
    _measure_fidelity(batch, views, means, options, known, tally)
    if views and options.schemes and batch.encoded.first < options.keep_sequences:
        counts = tuple(tally.kept) or _keep_counts(batch, beginning)
        for count, losses in kept_losses(batch, views, counts).items():
            tally.kept.setdefault(count, []).append(losses.cpu().numpy())
    if options.patch_hookpoints:
        _measure_patches(batch, known, tally)
        if live is not None:
            tally_replaced(batch, live, tally)


def _keep_counts(batch: DecodedBatch, beginning: Int[Tensor, "S T"]) -> tuple[int, ...]:
    """Those of the text's first batch, whatever slice it is in."""
    if batch.encoded.first == 0:
        return keep_counts(batch.encoded.latents)
    (encoded,) = encode_batches(batch.model, batch.crosscoder, beginning, len(beginning))
    return keep_counts(encoded.latents)


def _views(
    model: LanguageModel, crosscoder: Crosscoder, options: EvaluationOptions
) -> tuple[dict[int, MLPView], str]:
    """How MLPs read the crosscoder; none, and why, where none of them does and none was named.

    A dictionary of the stream is worth evaluating before an MLP that cannot be taken apart, too.
    """
    try:
        views = mlp_views(model, crosscoder, options.mlps, mixtures=True)
    except CrossproofError as error:
        if isinstance(options.mlps, tuple) or crosscoder.hookpoints.mlp_blocks:
            raise
        return {}, str(error)
    return views, "" if views else "No MLP reads what it writes."


def _mean_rests(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    views: Mapping[int, MLPView],
    options: EvaluationOptions,
) -> dict[int, MLPView]:
    """The views upstream of their MLPs with the mean rest of some sequences."""
    upstream = {b: view for b, view in views.items() if is_upstream(view)}
    if not upstream or not options.schemes or "mean_rest" not in options.mids:
        return {}
    batches = encode_batches(
        model, crosscoder, sequences, options.batch_sequences, needs_of(upstream)
    )
    return with_mean_rest(upstream, batches)


def _measure_reconstruction(batch: DecodedBatch, tally: Tally) -> None:
    encoded, x = batch.encoded, batch.encoded.x
    beyond = ~within_limits(x, tally.survey.limits(MASSIVE))
    for suffix, which in (("", ALL), (BEYOND, beyond)):
        rows, x_hat = x[which], batch.x_hat[which]
        tally.add("tokens" + suffix, encoded.per_sequence(x.new_ones(len(rows)), which))
        tally.add("error" + suffix, encoded.per_sequence((rows - x_hat).pow(2).sum(2), which))
        tally.add("square" + suffix, encoded.per_sequence(rows.pow(2).sum(2), which))
        tally.add("total" + suffix, encoded.per_sequence(rows, which))
    active = torch.bincount(encoded.latents.token_index, minlength=len(x))
    tally.add("active", encoded.per_sequence(active.to(x.dtype)))
    counts = torch.bincount(encoded.latents.indices, minlength=batch.crosscoder.n_latents)
    tally.fired = counts if tally.fired is None else tally.fired + counts


def _measure_interactions(batch: DecodedBatch, views: Mapping[int, MLPView], tally: Tally) -> None:
    parts: dict[str, list[Tensor]] = defaultdict(list)
    histograms = []
    for view in views.values():
        figures, shares = token_figures(view, batch.encoded, batch.x_hat)
        if is_upstream(view):
            both = view.norm_interaction(batch.encoded).unbind(1)
            figures |= dict(zip(("norm-all", "norm-single"), both, strict=True))
        for name, value in figures.items():
            parts[name].append(value)
        histograms.append(shares)
    for name, values in parts.items():
        tally.add(name, batch.encoded.per_sequence(torch.stack(values, 1)))
    if histograms:
        counts = torch.stack(histograms).double()
        tally.histogram = counts if tally.histogram is None else tally.histogram + counts


def _measure_fidelity(
    batch: DecodedBatch,
    views: Mapping[int, MLPView],
    means: Mapping[int, MLPView],
    options: EvaluationOptions,
    known: Mapping[str, NDArray[np.float64]],
    tally: Tally,
) -> None:
    tally.add("loss", batch.losses())
    tally.add("predicted", batch.encoded.scored[:, :-1].double().sum(1))
    losses: dict[str, list[Tensor]] = defaultdict(list)
    for block, view in views.items() if options.schemes else ():
        draw = batch.uniform(n_neurons(view), (options.seed, block))
        for scheme, output in _outputs(view.at(batch.encoded), draw, options.schemes).items():
            for mid, patch in _patches(batch, block, output, options.mids).items():
                if f"phi/{mid}/{scheme}" not in known:
                    losses[f"{mid}/{scheme}"].append(batch.losses(patch))
        if block in means:
            seen = means[block].at(batch.encoded)
            for scheme, output in _outputs(seen, draw, options.schemes).items():
                patch = batch.patched(mlp_out(block), output)
                losses[f"mean_rest/{scheme}"].append(batch.losses(patch))
    for name, values in losses.items():
        if len(values) == len(views):
            tally.add(f"phi/{name}", torch.stack(values, 1))
    for name in known:
        if name.startswith("phi/"):
            tally.add(name, _rows(batch, known[name]))


def _rows(batch: DecodedBatch, sums: NDArray[np.float64]) -> Float[Tensor, "S *parts"]:
    first = batch.encoded.first
    return torch.from_numpy(sums[first : first + len(batch.encoded.tokens)])


def _patches(
    batch: DecodedBatch, block: int, output: Float[Tensor, "B D"], mids: Sequence[str]
) -> dict[str, dict[str, Tensor]]:
    """What to replace so that the MLP puts out `output`, beside either resid_mid."""
    patch = batch.patched(mlp_out(block), output)
    patches = {"exact_mid": patch}
    mid = batch.crosscoder.hookpoints.blocks[block].resid_mid
    if mid is not None:
        name = batch.crosscoder.hookpoints.names[mid]
        patches["reconstructed_mid"] = patch | batch.patched(name, batch.x_hat[:, mid])
    return {mid: patch for mid, patch in patches.items() if mid in mids}


def _outputs(
    seen: TokenView | TokenMixture, draw: Float[Tensor, "B N"], schemes: Sequence[str]
) -> dict[str, Float[Tensor, "B D"]]:
    """The MLP's output under the schemes and under the two zero references."""
    if isinstance(seen, TokenMixture):

        def of(expert: ExpertView) -> dict[str, Tensor]:
            width = expert.view.dictionary.mlp.n_neurons
            return _outputs(expert.view, draw[expert.tokens, :width], schemes)

        return seen.added_by_name(of)
    dictionary = seen.dictionary
    outputs = {
        ablation.scheme: seen.output(ablation.value, ablation.gate)
        for ablation in ablations(dictionary, seen.latents, draw)
        if ablation.scheme in schemes
    }
    nothing = torch.zeros_like(draw)
    outputs["features-removed"] = seen.output(nothing, nothing)
    outputs["mlp-removed"] = torch.zeros_like(outputs["features-removed"])
    return outputs


def _measure_patches(
    batch: DecodedBatch, known: Mapping[str, NDArray[np.float64]], tally: Tally
) -> None:
    names, written = batch.crosscoder.hookpoints.names, batch.crosscoder.written
    zero = {} if "ce-zero" in known else {"zero": torch.zeros_like(batch.x_hat)}
    values = {"patch": batch.x_hat, **zero}
    for kind, value in values.items():
        patches = (batch.patched(names[at], value[:, at]) for at in written)
        sums = [map(batch.summed, pair) for pair in batch.clean.divergences(patches)]
        for name, parts in zip(("ce", "kl"), zip(*sums, strict=True), strict=True):
            tally.add(f"{name}-{kind}", torch.stack(parts, 1))
    for name in known:
        if name.endswith("-zero"):
            tally.add(name, _rows(batch, known[name]))
