"""Results: JSON without NaN, and back; `repr`; errors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from crossproof.errors import CrossproofError
from crossproof.result import Result
from crossproof.tables import Estimate, Table


@dataclass(frozen=True)
class Inner:
    name: str
    values: list[float]
    estimate: Estimate | None = None


@dataclass(frozen=True, repr=False)
class Outer(Result):
    count: int
    path: Path
    inner: dict[str, Inner]
    pair: tuple[float, float] | None = None
    more: dict[str, float | None] = field(default_factory=dict)

    def tables(self) -> tuple[Table]:
        rows = {name: [inner.estimate] for name, inner in self.inner.items()}
        return (Table.of("Outer", ["estimate"], rows),)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
OUTER = st.builds(
    Outer,
    count=st.integers(-(2**53), 2**53),
    path=st.just(Path("a/b")),
    inner=st.dictionaries(
        st.text(max_size=5),
        st.builds(
            Inner,
            name=st.text(max_size=5),
            values=st.lists(FLOATS, max_size=3),
            estimate=st.none() | st.builds(Estimate, FLOATS, st.none() | st.tuples(FLOATS, FLOATS)),
        ),
        max_size=2,
    ),
    pair=st.none() | st.tuples(FLOATS, FLOATS),
    more=st.dictionaries(st.text(max_size=3), st.none() | FLOATS, max_size=2),
)


@given(OUTER)
def test_json_and_back_is_the_same(result: Outer) -> None:
    text = json.dumps(result.to_json(), allow_nan=False)
    assert Outer.from_json(json.loads(text)) == result


def test_numbers_that_are_not_finite_are_null_with_a_reason(tmp_path: Path) -> None:
    result = Outer(1, Path("x"), {"a": Inner("n", [1.0, math.nan])}, more={"b": math.inf})
    content = result.to_json()
    assert content["inner"]["a"]["values"] == [1.0, None]
    assert content["missing"] == {"inner/a/values/1": "not defined (0/0)", "more/b": "infinite"}
    result.save(tmp_path / "result.json")
    assert "NaN" not in (tmp_path / "result.json").read_text()


def test_saved_and_loaded(tmp_path: Path) -> None:
    result = Outer(3, Path("x"), {"a": Inner("n", [1.5], Estimate(0.5, (0.4, 0.6)))}, (1.0, 2.0))
    result.save(tmp_path / "deep" / "result.json")
    assert Outer.load(tmp_path / "deep" / "result.json") == result
    assert "0.500 [0.400, 0.600]" in repr(result)
    assert "Inner(" not in repr(result)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"count": "many", "path": "x", "inner": 3}'])
def test_files_that_are_no_result_are_one_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(CrossproofError, match=r"result\.json") as raised:
        Outer.load(path)
    assert "\n" not in str(raised.value)
