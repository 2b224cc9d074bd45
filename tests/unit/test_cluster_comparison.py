"""Magnitudes against planted ones, paired differences against counting, halves that are apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dictionaries import mlp_hookpoints, random_case, random_crosscoder
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from crossproof.clusters.similarities import (
    LEAST_TOGETHER,
    Evidence,
    beyond_magnitudes,
    from_magnitudes,
    normalised,
    similarity,
)
from crossproof.clusters.task import accuracy, draw_trials
from crossproof.crosscoder import CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.interactions import measure_interactions
from paper.clusters.comparison import family
from paper.clusters.paired import Answered, difference, pool

LATENTS = 9
EVERY = torch.arange(LATENTS)
few = examples(20)


def evidence() -> Evidence:
    """Interactions of random cases in two blocks."""
    one, other = (random_case(seed, tokens=60, latents=LATENTS) for seed in (0, 1))
    found = measure_interactions(one.latents, {0: one.view, 3: other.view})
    crosscoder = random_crosscoder(CrosscoderConfig(LATENTS, "topk", 3), mlp_hookpoints(2), 5)
    return Evidence(found, crosscoder)


def planted(seed: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Magnitude times magnitude times co-activation, and the co-activation."""
    generator = torch.Generator().manual_seed(seed)
    loud = torch.rand(size, generator=generator, dtype=torch.float64) * 3 + 0.2
    together = torch.randint(LEAST_TOGETHER, 300, (size, size), generator=generator)
    together = (together + together.T).double().fill_diagonal_(0)
    return together * loud[:, None] * loud, together


@few
@given(st.integers(0, 1000), st.floats(1.5, 20))
def test_what_magnitudes_explain_leaves_nothing(seed: int, factor: float) -> None:
    values, together = planted(seed)
    torch.testing.assert_close(from_magnitudes(values, together), values, rtol=1e-6, atol=1e-9)
    assert float(beyond_magnitudes(values, together).max()) < 1e-6
    louder = values.clone()
    louder[2, 5] = louder[5, 2] = factor * values[2, 5]
    left = beyond_magnitudes(louder, together)
    assert divmod(int(left.argmax()), len(left)) == (2, 5)
    assert 0 < float(left[2, 5]) < np.log(factor)  # the fit gives both latents a part of it


def test_rare_pairs_have_nothing_beyond_and_strangers_nothing_at_all() -> None:
    values, together = planted(0)
    together[1, 2] = together[2, 1] = LEAST_TOGETHER - 1
    values[1, 2] = values[2, 1] = 1e9
    together[3, 4] = together[4, 3] = values[3, 4] = values[4, 3] = 0
    assert float(beyond_magnitudes(values, together)[1, 2]) == 0
    assert float(from_magnitudes(values, together)[3, 4]) == 0
    assert float(from_magnitudes(values, together)[1, 2]) < 1e6


def test_blocks_add_up_to_all_of_them() -> None:
    own = evidence()
    for form in ("I", "J", "Q"):
        parts = similarity(f"{form}@0", own, EVERY) + similarity(f"{form}@3", own, EVERY)
        torch.testing.assert_close(parts, similarity(form, own, EVERY))
        assert not torch.equal(similarity(f"{form}@0", own, EVERY), parts)


def test_given_coactivation_is_the_mean_over_tokens_of_both() -> None:
    own = evidence()
    both = similarity("coactivation", own, EVERY)
    torch.testing.assert_close(
        similarity("I-given-coactivation", own, EVERY) * both, similarity("I", own, EVERY)
    )
    phi = similarity("phi", own, EVERY).clamp_min(0)
    torch.testing.assert_close(
        similarity("Q-phi", own, EVERY) ** 2, normalised(similarity("Q", own, EVERY)) * phi
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("I-normalizd", r"no similarity 'I-normalizd'.*Nearest: I-normalised"),
        ("I@x", r"no similarity 'I@x'.*NAME@2"),
        ("phi@0", r"'phi' has no blocks"),
        ("I@7", r"Block 7 was not measured; choose from 0, 3"),
    ],
)
def test_names_that_mean_nothing_are_said(name: str, message: str) -> None:
    with pytest.raises(CrossproofError, match=message):
        similarity(name, evidence(), EVERY)


def test_families_keep_baselines_controls_and_mixtures_apart() -> None:
    names = ("I@2", "Q-normalised", "phi", "coactivation", "I-from-magnitudes", "I-phi")
    kinds = ("interaction", "interaction", "baseline", "baseline", "control", "mixed")
    assert tuple(map(family, names)) == kinds


def answered(seed: int, level: float, size: int = 120) -> Answered:
    """Random clusters with answers that are right with probability `level`."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, size // 5, size)
    frequencies = rng.uniform(0.01, 0.1, size)
    seeds = []
    for own in (0, 1):
        trials = draw_trials(labels, frequencies, own)
        right = rng.random(len(trials)) < level
        seeds.append(
            (trials, [t.answer if r else None for t, r in zip(trials, right, strict=True)])
        )
    return Answered(labels, tuple(seeds))


@few
@given(st.integers(0, 1000))
def test_a_difference_is_that_of_the_accuracies(seed: int) -> None:
    one, other = answered(seed, 0.7), answered(seed + 1, 0.4)
    found = difference(one, other, resamples=200)
    shares = [
        np.mean([a == t.answer for ts, own in x.seeds for t, a in zip(ts, own, strict=True)])
        for x in (one, other)
    ]
    assert found["mean"] == pytest.approx(shares[0] - shares[1])
    assert found["ci"][0] <= found["mean"] <= found["ci"][1]
    assert difference(one, one, resamples=50) == {"mean": 0.0, "ci": [0.0, 0.0]}


def test_large_differences_are_told_and_none_is_not() -> None:
    assert difference(answered(0, 0.9), answered(1, 0.4))["ci"][0] > 0
    told = sum(
        not (d["ci"][0] <= 0 <= d["ci"][1])
        for d in (difference(answered(s, 0.6), answered(s + 500, 0.6), 200) for s in range(40))
    )
    assert told <= 6  # 2 are expected


def test_answers_that_hang_together_in_clusters_widen_the_interval() -> None:
    """Whole clusters are right or wrong: as many clusters as answers are free."""
    one, other = answered(0, 0.5), answered(3, 0.5)
    lucky = np.random.default_rng(1).random(one.labels.max() + 1) < 0.5
    seeds = tuple(
        (trials, [t.answer if lucky[t.cluster] else None for t in trials])
        for trials, _ in one.seeds
    )
    alone = np.arange(len(one.labels))
    clustered = difference(Answered(one.labels, seeds), other)["ci"]
    free = difference(Answered(alone, seeds), replace(other, labels=alone))["ci"]
    assert clustered[1] - clustered[0] > 1.3 * (free[1] - free[0])


def test_pooled_answers_keep_latents_and_clusters_apart() -> None:
    one, other = answered(0, 0.8), answered(1, 0.3, size=60)
    both = pool([one, other])
    assert len(both.labels) == 180
    assert not set(both.labels[:120]) & set(both.labels[120:])
    trials = both.seeds[0][0]
    late = trials[len(one.seeds[0][0]) :]
    assert all(i >= 120 for t in late for i in (*t.shown, *t.options))
    assert all(both.labels[t.options[t.answer]] == t.cluster for t in trials)
    means = [accuracy(x.seeds, 50) for x in (one, other, both)]
    assert means[2].clusters == means[0].clusters + means[1].clusters
    assert means[2].trials == means[0].trials + means[1].trials
