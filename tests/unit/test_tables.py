"""Tables: how values are written, and that every rendering holds the same rows."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given
from rich.console import Console

from crossproof.errors import CrossproofError
from crossproof.tables import (
    DASH,
    Estimate,
    Row,
    Table,
    cell,
    count,
    fixed,
    interval,
    number,
    percent,
    signed,
    significant,
)

FINITE = st.floats(-1e12, 1e12, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (-0.5, "−0.500"),
        (12.345, "12.35"),
        (123.456, "123.5"),
        (12345.6, "12,346"),
        (0, "0.000"),
    ],
)
def test_numbers_have_fewer_decimals_the_larger_they_are(value: float, text: str) -> None:
    assert number(float(value)) == text


def test_styles() -> None:
    assert percent(0.1234) == "12.3%"
    assert percent(-0.0001) == "0.0%"
    assert signed(0.05) == "+0.050"
    assert signed(-0.05) == "−0.050"
    assert count(1234567.0) == "1,234,567"
    assert fixed(1)(2.25) == "2.2"
    assert significant(3)(0.00012345) == "0.000123"
    assert interval(0.1, 0.25, percent) == "[10.0%, 25.0%]"


@given(FINITE)
def test_a_number_is_written_to_within_half_a_unit_of_its_last_decimal(value: float) -> None:
    text = number(value).replace("−", "-").replace(",", "")
    decimals = len(text.partition(".")[2])
    # Half a unit of the last decimal, and the rounding of subtracting two floats of this size.
    assert abs(float(text) - value) <= 0.5 * 10**-decimals + 2**-52 * abs(value)


@pytest.mark.parametrize("value", [None, math.nan, math.inf, Estimate(None), Estimate(math.nan)])
def test_what_is_not_defined_is_a_dash(value: float | Estimate | None) -> None:
    assert str(cell(value)) == DASH


def test_cells() -> None:
    assert str(cell(True)) == "yes"
    assert str(cell(3)) == "3"
    assert str(cell("words")) == "words"
    assert str(cell(Estimate(0.5, (0.4, 0.6)))) == "0.500 [0.400, 0.600]"
    assert str(cell(Estimate(0.5, (math.nan, 0.6)))) == "0.500"


def table() -> Table:
    rows = (
        Row("FVU", (Estimate(0.1, (0.09, 0.11)), 0.2), "a note"),
        Row("dead | latents", (0.01, None), style=percent),
        Row("mixed", (0.5, 1234), style=(percent, count)),
    )
    return Table("Figures", ("one", "other"), rows, corner="figure", note="A sentence.")


def test_every_rendering_has_the_same_cells() -> None:
    made = table()
    lines = list(made.lines())
    assert lines[0] == ("figure", "one", "other")
    assert lines[1] == ("FVU", "0.100 [0.090, 0.110]", "0.200")
    assert lines[2] == ("dead | latents", "1.0%", DASH)
    assert lines[3] == ("mixed", "50.0%", "1,234")
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(made.to_rich())
    shown, text, markdown = console.export_text(), made.to_text(), made.to_markdown()
    for line in lines:
        for part in line:
            assert part in shown
            assert part in text
            assert part.replace("|", "\\|") in markdown
    assert "Figures" in text
    assert "A sentence." in text
    assert markdown.count("\n") == 4


def test_rich_markup_in_values_is_text() -> None:
    made = Table.of("t", ["[bold]x"], {"[red]a": ["[/] [link=x]"]})
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(made.to_rich())
    assert "[/] [link=x]" in console.export_text()


def test_no_rendering_steers_the_terminal() -> None:
    made = Table.of("\x1b[2J", ["\x1b[A"], {"\x9b1m": ["\x1b]0;x\x07"]}, corner="\r", note="\x08")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(made.to_rich())
    for shown in (console.export_text(), made.to_text(), made.to_markdown()):
        assert not set(shown) & set("\x1b\x9b\x07\x08\r")
        assert "\\x1b]0;x\\x07" in shown.replace("\\\\", "\\")


def test_frames_hold_means_and_ends() -> None:
    pandas = pytest.importorskip("pandas")
    frame = table().to_frame()
    assert list(frame.columns) == ["one", "one low", "one high", "other"]
    assert frame.loc["FVU", "one"] == 0.1
    assert frame.loc["FVU", "one high"] == 0.11
    assert pandas.isna(frame.loc["dead | latents", "other"])


def test_without_pandas_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(CrossproofError, match=r"pip install 'crossproof\[pandas\]'"):
        table().to_frame()
