"""The figures of a crosscoder on held-out sequences, each with an interval over sequences.

Positions are scored by the one rule of training (`scored_positions`); where a position is not
scored its activations stay the model's own and its loss does not count. Latents come from the
inference code, so no figure depends on how sequences are batched.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from crossproof.crosscoder.diffing import diffing_figures, is_joint
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.batch import Batch, mlp_out, resid_post
from crossproof.evaluation.schemes import ablations
from crossproof.evaluation.summary import summarise
from crossproof.evaluation.tally import SHARE_BINS, EvaluationOptions, Tally
from crossproof.interactions.contributions import MLPDictionary
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
) -> dict[str, Any]:
    """All figures of one crosscoder, as plain values ready for JSON (docs/results-format.md).

    `sequences` are tokens [S, T], held out from training. `progress` is called with sequences
    done and their number. Raises CrossproofError if there are fewer than two sequences.
    """
    tally = tally_sequences(model, crosscoder, sequences, options, progress)
    figures = summarise(crosscoder, crosscoder.hookpoints.mlp_blocks, tally, options)
    if is_joint(crosscoder.hookpoints):
        figures["diffing"] = diffing_figures(crosscoder)
    return figures


def tally_sequences(
    model: LanguageModel,
    crosscoder: Crosscoder,
    sequences: Int[Tensor, "S T"],
    options: EvaluationOptions = EvaluationOptions(),  # noqa: B008  (frozen)
    progress: Callable[[int, int], None] | None = None,
    zeroed: Mapping[str, NDArray[np.float64]] | None = None,
) -> Tally:
    """The per-sequence sums behind `evaluate`, which see.

    `zeroed`: the sums `ce-zero` and `kl-zero` of the same model, hookpoints and sequences, if they
    are known already; they do not depend on the crosscoder.
    """
    if len(sequences) < 2:
        raise CrossproofError("Evaluation needs at least 2 sequences: give a longer text.")
    tally = Tally()
    views = mlp_views(model, crosscoder)
    for start in range(0, len(sequences), options.batch_sequences):
        tokens = sequences[start : start + options.batch_sequences].to(model.device)
        with torch.no_grad():
            batch = Batch.build(model, crosscoder, tokens, start)
            _measure_reconstruction(batch, tally)
            _measure_interactions(batch, views, tally)
            _measure_fidelity(batch, views, options, tally)
            if options.patch_hookpoints:
                _measure_patches(batch, zeroed, tally)
        if progress is not None:
            progress(min(start + options.batch_sequences, len(sequences)), len(sequences))
    return tally


def mlp_views(model: LanguageModel, crosscoder: Crosscoder) -> dict[int, MLPDictionary]:
    """The crosscoder as each block's MLP sees it, for blocks whose mlp_in it reads."""
    hookpoints = crosscoder.hookpoints
    views = {}
    with torch.no_grad():
        for block in hookpoints.mlp_blocks:
            place = hookpoints.blocks[block].mlp_in
            assert place is not None
            decoder, bias = crosscoder.decoder_vectors(place), crosscoder.decoder_bias(place)
            views[block] = MLPDictionary.build(model.mlp(block), decoder, bias)
    return views


def _measure_reconstruction(batch: Batch, tally: Tally) -> None:
    x, tokens = batch.x, len(batch.x)
    tally.add("tokens", batch.per_sequence(x.new_ones(tokens)))
    tally.add("error", batch.per_sequence((x - batch.x_hat).pow(2).sum(2)))
    tally.add("square", batch.per_sequence(x.pow(2).sum(2)))
    tally.add("total", batch.per_sequence(x))
    active = torch.bincount(batch.latents.token_index, minlength=tokens)
    tally.add("active", batch.per_sequence(active.to(x.dtype)))
    counts = torch.bincount(batch.latents.indices, minlength=batch.crosscoder.n_latents)
    tally.fired = counts if tally.fired is None else tally.fired + counts


def _measure_interactions(batch: Batch, views: dict[int, MLPDictionary], tally: Tally) -> None:
    shares, histograms = [], []
    parts: dict[str, list[Tensor]] = {"interaction": [], "additive": [], "residual": []}
    for block, view in views.items():
        place = batch.crosscoder.hookpoints.blocks[block].mlp_in
        dominance = view.dominance(batch.latents)
        parts["interaction"].append(interaction(view, batch.latents, dominance))
        parts["residual"].append(residual(view, batch.x[:, place], batch.x_hat[:, place]))
        if not view.mlp.gated:
            parts["additive"].append(additive_interaction(view, batch.latents, dominance))
        share = dominant_share(view, batch.latents, dominance)
        shares.append(share.mean(1))
        histograms.append(torch.histc(share, SHARE_BINS, 0, 1))
    for name, values in [*parts.items(), ("share", shares)]:
        if values:
            tally.add(name, batch.per_sequence(torch.stack(values, 1)))
    if histograms:
        counts = torch.stack(histograms).double()
        tally.histogram = counts if tally.histogram is None else tally.histogram + counts


def _measure_fidelity(
    batch: Batch, views: dict[int, MLPDictionary], options: EvaluationOptions, tally: Tally
) -> None:
    tally.add("loss", batch.losses())
    tally.add("predicted", batch.scored[:, :-1].double().sum(1))
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
    view: MLPDictionary, batch: Batch, draw: Float[Tensor, "B N"], schemes: Sequence[str]
) -> dict[str, Float[Tensor, "B D"]]:
    """The MLP's output under the schemes and under the two zero references."""
    outputs = {
        ablation.scheme: view.output(ablation.value, ablation.gate)
        for ablation in ablations(view, batch.latents, draw)
        if ablation.scheme in schemes
    }
    nothing = view.G.new_zeros(len(batch.x), view.mlp.n_neurons)
    outputs["features-removed"] = view.output(nothing, nothing)
    outputs["mlp-removed"] = torch.zeros_like(outputs["features-removed"])
    return outputs


def _measure_patches(
    batch: Batch, zeroed: Mapping[str, NDArray[np.float64]] | None, tally: Tally
) -> None:
    clean = batch.model.log_probabilities(batch.tokens)
    targets = batch.tokens[:, 1:, None].long().expand(len(clean), -1, -1, -1)
    losses: dict[str, list[Tensor]] = defaultdict(list)
    names = batch.crosscoder.hookpoints.names
    for place in batch.crosscoder.written:
        name, values = names[place], {"patch": batch.x_hat[:, place]}
        if zeroed is None:
            values["zero"] = torch.zeros_like(batch.x[:, place])
        for kind, value in values.items():
            other = batch.model.log_probabilities(batch.tokens, batch.patched(name, value))
            ce = -other[:, :, :-1].gather(3, targets)[..., 0].mean(0)
            kl = (clean.exp() * (clean - other)).sum(-1)[:, :, :-1].mean(0)
            losses[f"ce-{kind}"].append((ce * batch.scored[:, :-1]).double().sum(1))
            losses[f"kl-{kind}"].append((kl * batch.scored[:, :-1]).double().sum(1))
    for name, parts in losses.items():
        tally.add(name, torch.stack(parts, 1))
    if zeroed is not None:
        rows = slice(batch.first, batch.first + len(batch.tokens))
        for name in ("ce-zero", "kl-zero"):
            tally.add(name, torch.from_numpy(zeroed[name][rows]))
