"""The explorer's tables, with many equal numbers, against sorting everything at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossproof.explorer.pair_tally import PairTally
from crossproof.explorer.sorted_keys import Among, places
from crossproof.explorer.strongest import WIDTH, Strongest, first_largest, largest
from crossproof.interactions.measuring import COLUMNS

ROWS, COUNT = 7, 3


def batches(random: np.random.Generator) -> list[tuple[NDArray[Any], ...]]:
    """Rows that ascend, keys of few values, sequences that are never the same."""
    found, sequence = [], 0
    for _ in range(12):
        row = np.sort(random.integers(0, ROWS, random.integers(0, 20)))
        key = random.integers(0, 6, len(row)).astype(np.float32)
        found.append((row, key, np.arange(sequence, sequence + len(row))))
        sequence += len(row)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_the_strongest_are_those_of_all_that_came(seed: int) -> None:
    tops = Strongest.empty(ROWS, COUNT, 1)
    came = batches(np.random.default_rng(seed))
    for row, key, sequence in came:

        def around(which: NDArray[Any], s: NDArray[Any] = sequence) -> NDArray[Any]:
            return np.broadcast_to(s[which, None, None], (len(which), 1, WIDTH)).astype(np.float32)

        tops.add(row, key, sequence, sequence % 5, around)
    for row in range(ROWS):
        mine = [
            (k, s) for rows, *rest in came for r, k, s in zip(rows, *rest, strict=True) if r == row
        ]
        best = sorted(mine, key=lambda entry: -entry[0])[:COUNT]  # stable: the first of equals
        free = COUNT - len(best)
        assert tops.key[row].tolist() == [key for key, _ in best] + [-1] * free
        assert tops.sequence[row].tolist() == [sequence for _, sequence in best] + [0] * free
        assert tops.position[row].tolist() == [s % 5 for _, s in best] + [0] * free
        for place, (_, sequence) in enumerate(best):
            np.testing.assert_array_equal(tops.values(row, place), sequence)


@pytest.mark.parametrize("seed", range(3))
def test_largest_numbers_are_the_first_of_equals(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 5, 40)
    for count in (1, 7, 39, 40, 50):
        expected = np.sort(np.argsort(-values, kind="stable")[:count])
        np.testing.assert_array_equal(largest(values, count), expected)
    begins = np.random.default_rng(seed).random(40) < 0.2
    begins[0] = True
    starts = np.flatnonzero(begins)
    groups = np.split(values, starts[1:])
    expected = [start + int(group.argmax()) for start, group in zip(starts, groups, strict=True)]
    assert first_largest(values, begins).tolist() == expected
    assert len(first_largest(values[:0], begins[:0])) == 0


def test_new_rows_come_among_the_old() -> None:
    keys, wanted = np.array([2, 5, 9]), np.array([1, 5, 6, 7, 12])
    at, there = places(keys, wanted)
    assert there.tolist() == [False, True, False, False, False]
    among = Among(len(keys), at[~there])
    assert among(keys, wanted[~there]).tolist() == [1, 2, 5, 6, 7, 9, 12]
    assert among(keys * 0.5, wanted[~there] * 1.0).tolist() == [1, 1, 2.5, 6, 7, 4.5, 12]
    assert places(keys[:0], wanted)[1].tolist() == [False] * 5


@pytest.mark.parametrize("n_latents", [20, 70_000])  # the latter sorts no numbers of sixteen bits
def test_partners_are_the_strongest_of_each_latent(n_latents: int) -> None:
    random = np.random.default_rng(0)
    latents = np.sort(random.choice(n_latents, 20, replace=False))
    pairs = [(h, k) for h in latents.tolist() for k in latents.tolist() if h < k]
    key = np.array([h * n_latents + k for h, k in pairs])
    columns = [random.integers(0, 4, len(key)).astype(float) for _ in range(6)]
    closed = np.zeros(n_latents, dtype=np.bool_)
    tally = PairTally(key, np.ones_like(key), columns, closed)
    expected = set()
    for form in set(COLUMNS.values()):
        values = tally.form(form)
        for latent in latents.tolist():
            mine = [row for row, pair in enumerate(pairs) if latent in pair and values[row] > 0]
            expected |= set(sorted(mine, key=lambda row: -values[row])[:2])
    assert tally.strongest(2).tolist() == sorted(expected)
