"""Questions, random controls and accuracy: drawn fairly, counted exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from crossproof.clusters.builtin_judges import EmbeddingJudge, OverlapJudge
from crossproof.clusters.judges import Question
from crossproof.clusters.task import (
    BIN,
    NEIGHBOURS,
    OPTIONS,
    SHOWN,
    Trial,
    accuracy,
    draw_trials,
    matched_labels,
    random_labels,
)

labelled = st.integers(0, 10_000).map(
    lambda seed: (
        np.random.default_rng(seed).integers(0, 9, 60),
        np.random.default_rng(seed + 1).uniform(1e-4, 0.1, 60),
        seed,
    )
)
few = examples(25)


@few
@given(labelled)
def test_exactly_one_option_is_a_member_and_it_is_not_shown(case: tuple) -> None:
    labels, frequencies, seed = case
    for trial in draw_trials(labels, frequencies, seed):
        inside = [labels[i] == trial.cluster for i in trial.options]
        assert sum(inside) == 1
        assert inside[trial.answer]
        assert len(set(trial.options)) == OPTIONS
        assert 1 <= len(trial.shown) <= SHOWN
        assert all(labels[i] == trial.cluster for i in trial.shown)
        assert not set(trial.shown) & set(trial.options)
        assert trial.size == (labels == trial.cluster).sum()


@few
@given(labelled)
def test_distractors_are_the_nearest_in_frequency(case: tuple) -> None:
    labels, frequencies, seed = case
    for trial in draw_trials(labels, frequencies, seed):
        out = trial.options[trial.answer]
        distance = np.abs(np.log(frequencies) - np.log(frequencies[out]))
        outside = np.sort(distance[labels != trial.cluster])
        limit = outside[min(NEIGHBOURS, len(outside)) - 1]
        assert all(distance[i] <= limit for i in trial.options)


@few
@given(labelled)
def test_random_clusters_keep_sizes_and_matched_ones_frequencies(case: tuple) -> None:
    labels, frequencies, seed = case
    order = np.argsort(frequencies, kind="stable")
    for shuffled in (random_labels(labels, seed), matched_labels(labels, frequencies, seed)):
        assert sorted(shuffled) == sorted(labels)
        assert (shuffled != labels).any()
    matched = matched_labels(labels, frequencies, seed)
    for start in range(0, len(order), BIN):
        part = order[start : start + BIN]
        assert sorted(matched[part]) == sorted(labels[part])


def test_every_cluster_is_asked_about_with_other_members_out() -> None:
    labels = np.array([0] * 6 + [1] * 2 + [2] + [3] * 8)
    trials = draw_trials(labels, np.full(17, 0.01), seed=0, per_cluster=4)
    by_cluster = {c: [t for t in trials if t.cluster == c] for c in range(4)}
    assert {c: len(own) for c, own in by_cluster.items()} == {0: 4, 1: 2, 2: 0, 3: 4}
    for own in by_cluster.values():
        assert len({trial.options[trial.answer] for trial in own}) == len(own)


def test_the_answer_stands_at_every_place_equally_often() -> None:
    labels = np.arange(1000) // 4
    answers = [t.answer for t in draw_trials(labels, np.full(1000, 0.01), seed=1)]
    counts = np.bincount(answers, minlength=OPTIONS)
    assert len(answers) == 1000
    assert np.abs(counts - 200).max() < 60  # over four standard deviations


def test_no_questions_without_distractors() -> None:
    assert draw_trials(np.array([0, 0, 0, 1, 2, 3]), np.full(6, 0.01), seed=0) == []
    assert draw_trials(np.empty(0, dtype=np.int64), np.empty(0), seed=0) == []


def trial(cluster: int, size: int, answer: int = 0) -> Trial:
    return Trial(cluster, size, (1,), (0, 2, 3, 4, 5), answer)


def test_accuracy_counts_answers_and_unanswered_questions() -> None:
    trials = [trial(0, 2), trial(0, 2), trial(1, 4), trial(2, 12)]
    found = accuracy([(trials, [0, 1, None, 0]), (trials, [0, 0, 0, 0])])
    assert found.by_seed == (0.5, 1.0)
    assert found.mean == 0.75
    assert (found.trials, found.clusters, found.unanswered) == (8, 6, 1)
    sizes = {row.sizes: (row.mean, row.trials) for row in found.by_size}
    assert sizes == {"2": (0.75, 4), "4–5": (0.5, 2), "11+": (1.0, 2)}


def test_the_interval_is_over_clusters_and_not_over_seeds() -> None:
    trials = [trial(c, 3) for c in range(30) for _ in range(4)]
    half = [0 if t.cluster % 2 else 1 for t in trials]
    one, three = (accuracy([(trials, half)] * seeds) for seeds in (1, 3))
    assert one.ci == three.ci
    width = one.ci[1] - one.ci[0]
    # Binomial with 30 clusters, each all right or all wrong: not with 120 questions.
    assert width == pytest.approx(2 * 1.96 * (0.25 / 30) ** 0.5, rel=0.15)


def test_a_single_cluster_has_no_interval() -> None:
    trials = [trial(0, 3), trial(0, 3), trial(1, 7), trial(2, 7)]
    found = accuracy([(trials, [0, 1, 0, 0])])
    by_size = {row.sizes: row.ci for row in found.by_size}
    assert by_size == {"3": None, "6–10": (1.0, 1.0)}
    assert found.ci is not None
    assert accuracy([(trials[:2], [0, 1])]).ci is None


def test_nothing_asked_gives_no_figure() -> None:
    found = accuracy([([], [])])
    assert (found.mean, found.ci, found.trials) == (None, None, 0)


def question(shown: list[str], options: list[str]) -> Question:
    return Question(tuple((text,) for text in shown), tuple((text,) for text in options))


def test_the_overlap_judge_counts_shared_words() -> None:
    asked = [
        question(["The DOG barked", "a dog"], ["cat", "dog, barked!", "sun", "the moon", "tree"]),
        question(["red"], ["blue", "green", "a b c d e red", "red rose", "x"]),
    ]
    assert OverlapJudge().choose(asked) == [1, 3]


def bag(texts: list[str]) -> np.ndarray:
    """Stands in for an embedding model: unit vectors of letter counts."""
    rows = np.array([[text.count(letter) for letter in "abcde"] for text in texts], dtype=float)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def test_the_embedding_judge_takes_the_nearest_mean() -> None:
    asked = [question(["aab", "«a»"], ["c", "d", "aa", "e", "b"])]
    assert EmbeddingJudge(bag).choose(asked) == [2]
    several = Question((("a", "b"),), (("a",), ("ab", "ba"), ("c",), ("d",), ("e",)))
    assert EmbeddingJudge(bag).choose([several]) == [1]
    assert EmbeddingJudge(bag).choose([]) == []


def test_no_text_is_embedded_twice() -> None:
    seen: list[str] = []

    def counted(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return bag(texts)

    judge = EmbeddingJudge(counted)
    for options, nearest in ((["c", "a", "ab", "b", "aa"], 1), (["ab", "e", "c", "d", "a"], 4)):
        assert judge.choose([question(["a", "«a»"], options)]) == [nearest]
    assert sorted(seen) == ["a", "aa", "ab", "b", "c", "d", "e"]
