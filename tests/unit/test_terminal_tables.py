"""Tables of many dictionaries on a terminal of eighty columns."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from crossproof.report import terminal
from crossproof.tables import Estimate, Row, Table, fixed

LABELS = "Interaction I", "Additive interaction J", "blocks.0.hook_mlp_out alone"


def of_layers(count: int) -> Table:
    """A dictionary a layer, each with a figure that no other has; the last row is the first's."""
    names = tuple(f"penalised/blocks.{at}.hook_mlp_out" for at in range(count))
    rows = [
        Row(label, tuple(Estimate(1000.0 * i + at, (0.5, 99999.5)) for at in range(count)))
        for i, label in enumerate(LABELS[:2], 1)
    ]
    rows.append(Row(LABELS[2], (7.25, *[None] * (count - 1)), style=(fixed(2),) * count))
    return Table("Interactions", names, tuple(rows), note="Means over blocks.")


def printed(table: Table, monkeypatch: pytest.MonkeyPatch) -> str:
    console = Console(width=80, file=io.StringIO())
    monkeypatch.setattr(terminal, "console", console)
    terminal.print_tables([table])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("count", [1, 2, 4, 5, 12, 30])
def test_no_figure_of_any_dictionary_is_lost(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(of_layers(count), monkeypatch)
    assert all(len(line) <= 80 for line in text.splitlines())
    figures = [f"{1000 * i + at:,}.0" for i in (1, 2) for at in range(count)]
    assert all(text.count(figure) == 1 for figure in figures)
    assert text.count("[0.500") == text.count("100,000]") == 2 * count
    assert text.count("7.25") == text.count("alone") == text.count("Means over blocks.") == 1
    assert text.count("Additive") == text.count("Interactions") == -(-count // 4)


def test_a_table_that_fits_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("Pairs", tuple("abcdefg"), (Row("1\u00a02", (1.5,) * 7),), corner="pair")
    assert len(re.findall("Pairs", printed(table, monkeypatch))) == 1
