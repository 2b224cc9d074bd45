"""Exported pages as columns: everything comes back, and every printed digit stays."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.explorer.columns import column, shortened

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-(2**40), 2**40)
cells = st.none() | st.booleans() | numbers | st.text(max_size=4)
documents = st.recursive(
    cells,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=5,
)


def restored(packed: dict[str, Any], n: int, words: list[str]) -> list[Any]:
    """What `explorer/src/columns.ts` makes of a column, written down a second time."""
    [kind, *_] = packed
    if kind == "c":
        return [packed["c"]] * n
    if kind == "v":
        return list(packed["v"])
    if kind == "w":
        return [words[at] for at in packed["w"]]
    if kind == "k":
        parts = {key: restored(each, n, words) for key, each in packed["k"].items()}
        return [{key: part[at] for key, part in parts.items()} for at in range(n)]
    lengths = [packed["l"]] * n if isinstance(packed["l"], int) else packed["l"]
    inside = iter(restored(packed["of"], sum(lengths), words))
    return [[next(inside) for _ in range(length)] for length in lengths]


@settings(max_examples=30)
@given(st.lists(documents, max_size=6))
def test_a_column_holds_its_values(values: list[Any]) -> None:
    words: dict[str, int] = {}
    packed = json.loads(json.dumps(column(values, words)))
    assert restored(packed, len(values), list(words)) == [shortened(value) for value in values]


rounded_before = st.builds(lambda n, d: n / 10**d, st.integers(1, 99_999), st.integers(0, 8))


@given(st.floats(1e-300, 1e300) | st.floats(1e-3, 1e5) | rounded_before)
def test_a_short_number_prints_the_same(value: float) -> None:
    """As `explorer/src/format.ts` prints it."""
    for signed in (value, -value):
        assert printed(float(shortened(signed))) == printed(signed)
        assert f"{100 * shortened(signed):.2f}" == f"{100 * signed:.2f}" or abs(value) >= 10


def printed(value: float) -> str:
    size = abs(value)
    if size >= 1e5 or size < 1e-3:
        return f"{value:.2e}"
    return f"{value:#.3g}" if size < 100 else f"{value:.{0 if size >= 1000 else 1}f}"
