"""From per-sequence sums to figures with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossproof.crosscoder.diffing import diffing_figures, is_joint
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.evaluation.contexts import contexts_in, pick_latents
from crossproof.evaluation.intervals import PartEstimate, Sums, estimate
from crossproof.evaluation.keep_curve import keep_curve
from crossproof.evaluation.replacing import replaced_layers
from crossproof.evaluation.results import (
    BlockEstimate,
    EvaluationResult,
    Fidelities,
    ShareHistogram,
)
from crossproof.evaluation.schemes import SCHEMES
from crossproof.evaluation.statistics import PER_TOKEN, Statistic, available, phi
from crossproof.evaluation.tally import MIDS, SHARE_BINS, EvaluationOptions, Tally
from crossproof.interactions.views import InputView, described
from crossproof.lm.model import LanguageModel

BY_HOOKPOINT = ("fvu", "fvu_without_outliers", "ce_recovered", "kl_recovered")
BY_BLOCK = ("fvu_mlp_in", *PER_TOKEN)


def summarise(
    model: LanguageModel, crosscoder: Crosscoder, tally: Tally, options: EvaluationOptions
) -> EvaluationResult:
    """The figures of one crosscoder, and a few of its latents with their contexts."""
    sums = tally.joined()
    if not sums["tokens"].any():
        raise CrossproofError("There are no tokens to evaluate: give a text with ordinary tokens.")
    figures = _figures(crosscoder, tally, sums, options)
    names = [crosscoder.hookpoints.names[at] for at in crosscoder.written]
    picked = pick_latents(tally.encoded, crosscoder.n_latents, options.latents)
    joint = is_joint(crosscoder.hookpoints)
    means: dict[str, Any] = {name: figure.mean for name, figure in figures.items()}
    return EvaluationResult(
        sequences=len(sums["tokens"]),
        tokens=int(sums["tokens"].sum()),
        **means,
        dead=float((tally.fired == 0).double().mean()) if tally.fired is not None else 0.0,
        model_loss=float(sums["loss"].sum() / sums["predicted"].sum()),
        intervals={name: figure.ci for name, figure in figures.items() if figure.ci is not None},
        by_hookpoint={
            name: dict(zip(names, figures[name].parts, strict=True))
            for name in BY_HOOKPOINT
            if name in figures
        },
        by_block={name: figures[name].parts for name in BY_BLOCK if name in figures},
        blocks=tuple(tally.views),
        views={str(b): described(v, crosscoder) for b, v in tally.views.items()},
        dictionaries=dict(crosscoder.members),
        unread=tally.unread or None,
        replaced=replaced_layers(model, crosscoder, sums, options),
        unreplaced=tally.unreplaced or None,
        phi=_fidelities(sums, options, "features-removed"),
        phi_mlp_removed=_fidelities(sums, options, "mlp-removed"),
        keep_curve=keep_curve(
            sums, tally.kept, figures["l0"].mean, options.resamples, options.seed
        ),
        share_histogram=_histogram(tally),
        massive=tally.survey.massive,
        diffing=diffing_figures(crosscoder) if joint else None,
        latents=tuple(contexts_in(model.tokenizer, tally.encoded, picked)),
    )


def _figures(
    crosscoder: Crosscoder, tally: Tally, sums: Sums, options: EvaluationOptions
) -> dict[str, PartEstimate]:
    written = list(crosscoder.written)
    inputs = [view.hookpoint for view in tally.views.values() if isinstance(view, InputView)]
    statistics = available(sums, inputs)
    # FVU means nothing where a transcoder only reads.
    for name in {"fvu", "fvu_without_outliers"} & statistics.keys():
        whole = statistics[name]
        statistics[name] = lambda totals, whole=whole: whole(totals)[:, written]  # type: ignore[misc]
    return {name: _estimate(sums, statistic, options) for name, statistic in statistics.items()}


def _fidelities(sums: Sums, options: EvaluationOptions, zero: str) -> Fidelities:
    return {
        scheme: {
            mid: BlockEstimate.of(_estimate(sums, phi(mid, scheme, zero), options, True))
            for mid in MIDS
            if f"phi/{mid}/{scheme}" in sums
        }
        for scheme in SCHEMES
    }


def _estimate(
    sums: Sums, statistic: Statistic, options: EvaluationOptions, where_defined: bool = False
) -> PartEstimate:
    return estimate(sums, statistic, options.resamples, options.seed, where_defined)


def _histogram(tally: Tally) -> ShareHistogram | None:
    if tally.histogram is None:
        return None
    share = tally.histogram / tally.histogram.sum(1, keepdim=True)
    edges = np.linspace(0, 1, SHARE_BINS + 1)
    return ShareHistogram(tuple(edges.tolist()), tuple(map(tuple, share.tolist())))
