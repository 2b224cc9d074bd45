"""The tables of `crossproof attribute` are whole at 80 columns."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from reports import attribution
from rich.console import Console

from crossproof.report.terminal_attribute import attribution_tables

WIDTH = 80


def rendered(content: dict[str, Any]) -> list[str]:
    """Lines as printed on a terminal of 80 columns."""
    console = Console(width=WIDTH, file=StringIO())
    for table in attribution_tables(content):
        console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def cells(line: str) -> list[str]:
    """What stands between two spaces or more."""
    return [part.strip() for part in line.split("  ") if part.strip()]


NAMES = (
    ("alone",),
    ("unpenalised", "penalised"),
    ("one", "two", "three"),
    ("reconstruction-only-seed-0", "interaction-5-transition-200-all-latents-50-seed-0"),
)


@pytest.mark.parametrize("names", NAMES)
def test_nothing_is_cut_or_broken(names: tuple[str, ...]) -> None:
    content = attribution(names=names)
    lines = rendered(content)
    assert max(map(len, lines)) <= WIDTH
    assert not [line for line in lines if "…" in line]
    found = [cells(line) for line in lines]
    for run in content["runs"].values():
        kept = run["last_block"]["model"]["keep all, centred"]["certified"]
        low, high = (100 * end for end in kept["ci"])
        share = f"{kept['mean'] * 100:.1f} [{low:.1f}, {high:.1f}]"
        assert [row for row in found if row[0:1] == ["keep all, centred"] and share in row]
        claimed = run["loss"]["claimed"]
        nats = f"{claimed['mean']:.3f} [{claimed['ci'][0]:.3f}, {claimed['ci'][1]:.3f}]"
        assert [row for row in found if row[-2:] == ["1.952 [1.708, 2.196]", nats]]
    assert ["7 1001", "61.500", "1", "1.0, 1.1, 1.2", "1.0", "2.000"] in found


def test_every_step_is_one_line() -> None:
    content = attribution()
    lines = [cells(line) for line in rendered(content)]
    for run in content["runs"].values():
        for stage in run["chains"]["dominant, attention measured"]["stages"]:
            step = stage["stage"].removeprefix("blocks.")
            rows = [row for row in lines if row[0:1] == [step]]
            assert len(rows) == 2
            moves = stage["kind"] == "propagates"
            assert {len(row) for row in rows} == {7 if moves else 6}
    chains = [row for row in lines if row[-3:] == ["56.25", "nothing", "0 attention moves"]]
    assert len(chains) == 4


def test_the_last_block_alone() -> None:
    text = "\n".join(rendered(attribution(last_block_only=True)))
    assert "Cross-entropy" not in text
    assert "against all latents" in text
    assert "cost the proof most" in text


def test_names_are_no_markup() -> None:
    assert "[red]one" in "\n".join(rendered(attribution(names=("[red]one", "two"))))
