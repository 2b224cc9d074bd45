"""The comparison with golden files: what it lets pass and what it reports."""

from __future__ import annotations

from typing import Any

import pytest
from golden_run import Bounds, differences, flatten

GOLDEN = {"/count": 3, "/mean": 0.5, "/list": [100.0, 0.0], "/name": "a", "/none": None}


def lines(change: dict[str, Any], exact: bool = False) -> list[str]:
    return differences(GOLDEN, GOLDEN | change, Bounds(1e-3, "chosen"), exact)


def test_rounding_passes_unless_every_digit_is_asked_for() -> None:
    rounded = {"/mean": 0.5009, "/list": [100.0, 0.09]}
    assert lines(rounded) == []
    assert len(lines(rounded, exact=True)) == 2


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/count", 4),
        ("/mean", 0.502),
        ("/list", [100.0, 0.2]),
        ("/list", [100.0]),
        ("/name", "b"),
        ("/none", 0.0),
        ("/new", 1),
    ],
)
def test_anything_else_is_reported(path: str, value: Any) -> None:
    assert [line.split(":")[0] for line in lines({path: value})] == [path]


def test_a_missing_path_is_reported() -> None:
    assert differences(GOLDEN, {}, Bounds(1.0), exact=False)[0].startswith("/count: missing")


def test_choices_and_hashes_are_compared_in_exact_mode_alone() -> None:
    change = {"/chosen/0": 1, "/model_hash": "x", "/weights/sha256": "y"}
    assert lines(change) == []
    assert len(lines(change, exact=True)) == 3


def test_flattening_keeps_plain_lists_whole_and_leaves_the_clock_out() -> None:
    content = {"a": [1, 2], "b": [[1], [2]], "seconds": 3.0, "c": {}, "d": [{"e": None}]}
    assert dict(flatten(content)) == {
        "/a": [1, 2], "/b/0": [1], "/b/1": [2], "/c": {}, "/d/0/e": None,
    }  # fmt: skip
