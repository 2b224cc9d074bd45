"""The figures on the pages of certificates and attributions are those of docs/data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paper.scripts import certificates_tables as tables

ROOT = Path(__file__).parents[2]
PAGES = ("certificates.md", "attribution.md")


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_those_of_the_data(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / page).read_text()
    assert "<!-- table: " in text
    assert tables.fill(text) == text
    broken = re.sub(r"(\| keep 1[^|]*\||\| coactive[^|]*\|)", "| lie |", text)
    assert broken != text
    assert tables.fill(broken) == text
