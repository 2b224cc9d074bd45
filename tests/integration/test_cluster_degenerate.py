"""Dictionaries with dead, zero, equal and constant latents: figures, or why there are none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, D_MODEL, random_tokens
from torch import Tensor

from crossproof.clusters.clustering import partition
from crossproof.clusters.preparing import MeasuredCrosscoder, NothingToClusterError
from crossproof.clusters.result import ClusterResult
from crossproof.clusters.run import cluster
from crossproof.clusters.settings import BASELINES, ClusterSettings, LatentChoice
from crossproof.clusters.similarities import Evidence, similarity
from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.evaluation import measure
from crossproof.evaluation.pair_sums import tally_interactions
from crossproof.lm import LanguageModel

LATENTS = 24
SETTINGS = ClusterSettings(
    similarity="I",
    against=(
        *("I-normalised", "I-from-magnitudes", "I-beyond-magnitudes", "J-phi", "phi"),
        *("Q-given-coactivation", "second-differences-normalised", "coactivation-normalised"),
        *("decoder-cosine", "decoder-cosine-mlp-in"),
    ),
    algorithm="agglomerative",
    judge="overlap",
    seeds=1,
    choice=LatentChoice(min_tokens=1, max_frequency=1.0),
    scored=4,
    windows=2,
    resamples=20,
)
TEXT = random_tokens(20, CONTEXT, seed=3)


def dictionary(model: LanguageModel, change: Callable[[Crosscoder], None]) -> Crosscoder:
    """A ReLU crosscoder at the MLPs' inputs, with weights changed."""
    hookpoints = model.hookpoints(["blocks.*.mlp.hook_in"])
    made = Crosscoder(CrosscoderConfig(LATENTS, "relu"), hookpoints, D_MODEL)
    made.initialise(model.activations(TEXT[:8], hookpoints.names).flatten(0, 1).clone(), seed=0)
    with torch.no_grad():
        change(made)
    return made


def clustered(model: LanguageModel, made: Crosscoder, **changes: Any) -> ClusterResult:
    """The dictionary measured on half of the text and clustered, judged on the other half."""
    rows = changes.pop("rows", 8)
    sums = tally_interactions(model, made, TEXT[:rows]).interactions
    source = MeasuredCrosscoder(made, sums, TEXT[:rows], TEXT[rows : rows + 12])
    return cluster(model, source, replace(SETTINGS, **changes), announce=lambda _: None)


def numbers(content: Any) -> Iterator[float]:
    """Every number of a document."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, float):
        yield content


def first(weights: Tensor, count: int, value: Tensor | float) -> None:
    weights[:count] = value


def dead(made: Crosscoder) -> None:
    first(made.b_enc, 5, -1e4)


def zero_rows(made: Crosscoder) -> None:
    first(made.W_dec, 5, 0.0)


def twins(made: Crosscoder) -> None:
    first(made.W_dec, 6, made.W_dec[0].clone())
    first(made.W_enc, 6, made.W_enc[0].clone())


def constant(made: Crosscoder) -> None:
    first(made.W_enc, 4, 0.0)
    first(made.b_enc, 4, 1.0)


def minute(made: Crosscoder) -> None:
    first(made.W_dec, 4, made.W_dec[:4] * 1e-25)


def identical(made: Crosscoder) -> None:
    made.W_dec[:], made.W_enc[:] = made.W_dec[0].clone(), made.W_enc[0].clone()


def all_constant(made: Crosscoder) -> None:
    made.W_enc[:], made.b_enc[:] = 0.0, 1.0


@pytest.mark.parametrize(
    ("change", "left_out", "undefined"),
    [
        (dead, {"never active where measured": 5}, set()),
        (zero_rows, {"with zero decoder vectors": 5}, set()),
        (twins, {}, set()),
        (constant, {}, set()),
        (minute, {}, set()),
        (identical, {}, set()),
        (all_constant, {}, {"phi", "J-phi"}),
    ],
)
def test_what_is_degenerate_is_left_out_and_said(
    gpt_neo: LanguageModel,
    change: Callable[[Crosscoder], None],
    left_out: dict[str, int],
    undefined: set[str],
) -> None:
    result = clustered(gpt_neo, dictionary(gpt_neo, change))
    (run,) = result.runs.values()
    assert run.left_out == left_out
    assert len(run.latents) == LATENTS - sum(left_out.values())
    assert set(run.undefined) >= undefined
    assert set(run.undefined) | set(run.similarities) == {"I", *SETTINGS.against}
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert all(map(math.isfinite, numbers(content)))
    assert ClusterResult.from_json(content) == result
    assert (run.detection["overlap"].specificity is None) == (change is all_constant)
    for reason, count in left_out.items():
        assert f"{count} {reason}" in repr(result)
    for name in run.undefined:
        assert f"not by {name}: No two of the chosen latents" in repr(result)


def test_equal_vectors_have_cosine_one_however_small(gpt_neo: LanguageModel) -> None:
    made = dictionary(gpt_neo, lambda c: first(c.W_dec, 2, c.W_dec[0] * 1e-25))
    sums = tally_interactions(gpt_neo, made, TEXT[:1]).interactions
    for name in ("decoder-cosine", "decoder-cosine-mlp-in"):
        cosines = similarity(name, Evidence(sums, made), torch.arange(LATENTS))
        # A dot product of 32 terms in float64 errs by at most 32 units of rounding, 1.1e-16.
        assert float(cosines[0, 1]) == pytest.approx(1, abs=32 * 1.2e-16)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: made.b_enc.fill_(-1e4), r"Only 0 of 24 latents.*24 never active"),
        (lambda made: made.b_enc[1:].fill_(-1e4), r"Only 1 of 24 latents.*23 never active"),
        (lambda made: made.W_dec.zero_(), r"Only 0 of 24 latents.*24 with zero decoder"),
    ],
)
def test_a_dictionary_without_clusters_says_why(
    gpt_neo: LanguageModel, change: Callable[[Crosscoder], None], reason: str
) -> None:
    made = dictionary(gpt_neo, change)
    with pytest.raises(CrossproofError, match=f"crosscoder: {reason}"):
        clustered(gpt_neo, made)
    measured = json.dumps(measure(gpt_neo, made, TEXT[:8]).to_json(), allow_nan=False)
    assert all(map(math.isfinite, numbers(json.loads(measured))))


def test_a_dictionary_of_one_latent_is_measured_and_not_clustered(gpt_neo: LanguageModel) -> None:
    hookpoints = gpt_neo.hookpoints(["blocks.*.mlp.hook_in"])
    made = Crosscoder(CrosscoderConfig(1, "relu"), hookpoints, D_MODEL)
    with torch.no_grad():
        made.b_enc.fill_(1.0)
        made.W_dec.fill_(0.1)
    figures = measure(gpt_neo, made, TEXT[:2])
    assert (figures.pairs, figures.totals["I"].mean) == (0, 0.0)
    with pytest.raises(CrossproofError, match="of 1 latents can be clustered"):
        clustered(gpt_neo, made)


def test_one_measured_row_has_no_halves_and_says_so(gpt_neo: LanguageModel) -> None:
    made = dictionary(gpt_neo, lambda _: None)
    result = clustered(gpt_neo, made, rows=1, against=("second-differences", "phi"))
    (run,) = result.runs.values()
    for name, summary in run.similarities.items():
        assert summary.agreement_halves is None
        assert name in BASELINES or "halves" in str(summary.halves_missing)
    assert all(map(math.isfinite, numbers(result.to_json())))


def test_more_clusters_than_latents_are_refused_where_they_are_asked_for() -> None:
    values = torch.rand(12, 12, dtype=torch.float64)
    for algorithm in ("agglomerative", "spectral"):
        with pytest.raises(CrossproofError, match="12 latents cannot be divided into 13 clusters"):
            partition(values + values.T, algorithm, clusters=13)
    assert partition(values + values.T, "affinity", clusters=13).converged  # which finds the number


@pytest.mark.parametrize("algorithm", ["affinity", "agglomerative", "spectral"])
def test_latents_that_are_all_alike_make_clusters(algorithm: str) -> None:
    labels = partition(torch.ones(12, 12, dtype=torch.float64), algorithm).labels
    assert labels.shape == (12,)
    assert labels.min() == 0
    with pytest.raises(NothingToClusterError, match="similar at all"):
        partition(-torch.ones(12, 12, dtype=torch.float64), algorithm)


def test_a_run_keeps_the_crosscoders_that_have_clusters(
    gpt_neo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a run whose second crosscoder has collapsed."""
    alive, collapsed = (
        dictionary(gpt_neo, change) for change in (lambda _: None, lambda c: c.b_enc.fill_(-1e4))
    )
    sources = {
        name: MeasuredCrosscoder(
            made, tally_interactions(gpt_neo, made, TEXT[:8]).interactions, TEXT[:8], TEXT[8:]
        )
        for name, made in (("alive", alive), ("collapsed", collapsed))
    }
    monkeypatch.setattr("crossproof.clusters.run.measured_corpus", lambda *_: None)
    monkeypatch.setattr("crossproof.clusters.run.measured_crosscoders", lambda *_: sources.items())
    monkeypatch.setattr(ClusterResult, "save", lambda *_: None)
    result = cluster(gpt_neo, "run", replace(SETTINGS, against=()))
    assert list(result.runs) == ["alive"]
    assert "Only 0 of 24 latents" in result.skipped["collapsed"]
    assert "Not clustered" in repr(result)
    assert ClusterResult.from_json(json.loads(json.dumps(result.to_json()))) == result
