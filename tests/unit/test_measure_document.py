"""docs/what-the-measure-measures.md names a test for each of its statements, and they exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "what-the-measure-measures.md"
INVARIANCES = "property/test_invariances.py"


def named() -> set[tuple[str, str]]:
    """(file, test) for each test that the document names."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.findall(r"`(?:((?:unit|property)/test_\w+\.py)::)?(test_\w+)`", text)
    return {(file or INVARIANCES, test) for file, test in found}


def defined_in(file: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", (TESTS / file).read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize(("file", "test"), sorted(named()))
def test_every_test_that_it_names_exists(file: str, test: str) -> None:
    assert test in defined_in(file)


def test_it_names_every_invariance_and_every_exception_to_one() -> None:
    assert {test for file, test in named() if file == INVARIANCES} == defined_in(INVARIANCES)
    assert len(defined_in(INVARIANCES)) >= 20
