"""The figures of a crosscoder on held-out sequences, each with an interval over sequences.

Positions are scored by the one rule of training (`scored_positions`); where a position is not
scored its activations stay the model's own and its loss does not count. Latents come from the
inference code, so no figure depends on how sequences are batched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.activations.config import MASSIVE
from crossproof.activations.massive import survey_norms
from crossproof.activations.positions import within_limits
from crossproof.crosscoder.encode import ALL
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.patching import DecodedBatch, decode_batches, mlp_out, resid_post
from crossproof.evaluation.results import EvaluationResult
from crossproof.evaluation.schemes import ablations
from crossproof.evaluation.summary import summarise
from crossproof.evaluation.tally import BEYOND, SHARE_BINS, EvaluationOptions, Tally
from crossproof.interactions.contributions import MLPDictionary, mlp_views
from crossproof.interactions.penalty import (
    additive_interaction,
    dominant_share,
    interaction,
    residual,
)
from crossproof.lm.model import LanguageModel


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
    tally = tally_sequences(model, crosscoder, sequences, options, progress)
    return summarise(model, crosscoder, tally, options)


def tally_sequences(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  (frozen)
    progress: Callable[[int, int], None] | None = None,
    zeroed: Mapping[str, NDArray[np.float64]] | None = None,
) -> Tally:
    """The per-sequence sums behind `evaluate`, and the latents of the first sequences.

    `zeroed`: the sums `ce-zero` and `kl-zero` of the same model, hookpoints and sequences, if they
    are known already; they do not depend on the crosscoder. Raises as `evaluate`.
    """
    if len(sequences) < 2:
        raise CrossproofError("Evaluation needs at least 2 sequences: give a longer text.")
    names = crosscoder.hookpoints.names
    tally = Tally(survey=survey_norms(model, sequences, names, crosscoder.positions))
    views = mlp_views(model, crosscoder)
    for batch in decode_batches(model, crosscoder, sequences, options.batch_sequences):
        with torch.no_grad():
            _measure_reconstruction(batch, tally)
            _measure_interactions(batch, views, tally)
            _measure_fidelity(batch, views, options, tally)
            if options.patch_hookpoints:
                _measure_patches(batch, zeroed, tally)
        if batch.encoded.first < options.context_sequences:
            tally.encoded.append(batch.encoded.latents_only())
        if progress is not None:
            progress(batch.encoded.first + len(batch.encoded.tokens), len(sequences))
    return tally


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


def _measure_interactions(
    batch: DecodedBatch, views: dict[int, MLPDictionary], tally: Tally
) -> None:
    shares, histograms = [], []
    parts: dict[str, list[Tensor]] = {"interaction": [], "additive": [], "residual": []}
    latents = batch.encoded.latents
    for block, view in views.items():
        mlp_in = batch.crosscoder.hookpoints.blocks[block].mlp_in
        dominance = view.dominance(latents)
        parts["interaction"].append(interaction(view, latents, dominance))
        inputs = batch.encoded.x[:, mlp_in], batch.x_hat[:, mlp_in]
        parts["residual"].append(residual(view, *inputs))
        if not view.mlp.gated:
            parts["additive"].append(additive_interaction(view, latents, dominance))
        share = dominant_share(view, latents, dominance)
        shares.append(share.mean(1))
        histograms.append(torch.histc(share, SHARE_BINS, 0, 1))
    for name, values in [*parts.items(), ("share", shares)]:
        if values:
            tally.add(name, batch.encoded.per_sequence(torch.stack(values, 1)))
    if histograms:
        counts = torch.stack(histograms).double()
        tally.histogram = counts if tally.histogram is None else tally.histogram + counts


def _measure_fidelity(
    batch: DecodedBatch, views: dict[int, MLPDictionary], options: EvaluationOptions, tally: Tally
) -> None:
    tally.add("loss", batch.losses())
    tally.add("predicted", batch.encoded.scored[:, :-1].double().sum(1))
    losses: dict[str, list[Tensor]] = defaultdict(list)
    for block, view in views.items() if options.schemes else ():
        mid = batch.crosscoder.hookpoints.blocks[block].resid_mid
        draw = batch.uniform(view.mlp.n_neurons, (options.seed, block))
        for scheme, output in _outputs(view, batch, draw, options.schemes).items():
            if "exact_mid" in options.mids:
                patch = batch.patched(mlp_out(block), output)
                losses[f"exact_mid/{scheme}"].append(batch.losses(patch))
            if mid is not None and "reconstructed_mid" in options.mids:
                patch = batch.patched(resid_post(block), batch.x_hat[:, mid] + output)
                losses[f"reconstructed_mid/{scheme}"].append(batch.losses(patch))
    for name, values in losses.items():
        if len(values) == len(views):
            tally.add(f"phi/{name}", torch.stack(values, 1))


def _outputs(
    view: MLPDictionary, batch: DecodedBatch, draw: Float[Tensor, "B N"], schemes: Sequence[str]
) -> dict[str, Float[Tensor, "B D"]]:
    """The MLP's output under the schemes and under the two zero references."""
    outputs = {
        ablation.scheme: view.output(ablation.value, ablation.gate)
        for ablation in ablations(view, batch.encoded.latents, draw)
        if ablation.scheme in schemes
    }
    nothing = view.G.new_zeros(len(batch.x_hat), view.mlp.n_neurons)
    outputs["features-removed"] = view.output(nothing, nothing)
    outputs["mlp-removed"] = torch.zeros_like(outputs["features-removed"])
    return outputs


def _measure_patches(
    batch: DecodedBatch, zeroed: Mapping[str, NDArray[np.float64]] | None, tally: Tally
) -> None:
    clean = batch.model.log_probabilities(batch.encoded.tokens)
    targets = batch.encoded.tokens[:, 1:, None].long().expand(len(clean), -1, -1, -1)
    losses: dict[str, list[Tensor]] = defaultdict(list)
    names = batch.crosscoder.hookpoints.names
    for at in batch.crosscoder.written:
        name, values = names[at], {"patch": batch.x_hat[:, at]}
        if zeroed is None:
            values["zero"] = torch.zeros_like(batch.encoded.x[:, at])
        for kind, value in values.items():
            other = batch.model.log_probabilities(batch.encoded.tokens, batch.patched(name, value))
            ce = -other[:, :, :-1].gather(3, targets)[..., 0].mean(0)
            kl = (clean.exp() * (clean - other)).sum(-1)[:, :, :-1].mean(0)
            losses[f"ce-{kind}"].append((ce * batch.encoded.scored[:, :-1]).double().sum(1))
            losses[f"kl-{kind}"].append((kl * batch.encoded.scored[:, :-1]).double().sum(1))
    for name, parts in losses.items():
        tally.add(name, torch.stack(parts, 1))
    if zeroed is not None:
        rows = slice(batch.encoded.first, batch.encoded.first + len(batch.encoded.tokens))
        for name in ("ce-zero", "kl-zero"):
            tally.add(name, torch.from_numpy(zeroed[name][rows]))
