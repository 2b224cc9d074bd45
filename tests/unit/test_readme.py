"""The README is short, and its numbers are those of the data files."""

from __future__ import annotations

import re

import pytest

from paper.scripts.readme_table import DATA, README, RESULTS, price, proved, readme, recognised

FROM_ELSEWHERE = {"2606.09940", "3.11"}
"""The paper's number and Python's version."""


def test_every_number_is_what_the_data_files_say() -> None:
    text = README.read_text()
    assert readme(text, [str(DATA / "demo.json")]) == text


@pytest.mark.parametrize(
    ("true", "false"), [("0.673", "0.674"), ("1,371", "1,370"), (".78", ".79"), (" 5.6 ", " 5.5 ")]
)
def test_a_number_that_is_off_is_noticed(true: str, false: str) -> None:
    text = README.read_text()
    assert true in text
    changed = text.replace(true, false)
    assert readme(changed, [str(DATA / "demo.json")]) == text


def test_no_figure_stands_outside_what_is_generated() -> None:
    text = README.read_text()
    before, rest = text.split(RESULTS[0])
    prose = before + rest.split(RESULTS[1])[1]
    for pattern in price() | proved() | recognised():
        prose = re.sub(pattern, "", prose)
    assert set(re.findall(r"\d*\.\d+", prose)) <= FROM_ELSEWHERE


def test_it_has_at_most_120_lines() -> None:
    assert len(README.read_text().splitlines()) <= 120
