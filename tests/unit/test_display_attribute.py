"""The tables of `crossproof attribute` are whole at 80 columns."""

from __future__ import annotations

from io import StringIO

import pytest
from reports import attribution
from rich.console import Console

from crossproof.proof.attribution import AttributionResult
from crossproof.tables import at_least, at_most

WIDTH = 80


def rendered(result: AttributionResult) -> list[str]:
    """Lines as printed on a terminal of 80 columns."""
    console = Console(width=WIDTH, file=StringIO())
    for table in result.tables():
        console.print(table.to_rich())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


NAMES = (
    ("alone",),
    ("unpenalised", "penalised"),
    ("one", "two", "three"),
    ("reconstruction-only-seed-0", "interaction-5-keep_largest-200-all-latents-50-seed-0"),
)


@pytest.mark.parametrize("names", NAMES)
def test_nothing_is_cut_or_broken(names: tuple[str, ...]) -> None:
    result = AttributionResult.from_json(attribution(names=names))
    lines = rendered(result)
    assert max(map(len, lines)) <= WIDTH
    assert not [line for line in lines if "…" in line]
    share = at_least(1, percent=True)
    for run in result.runs.values():
        certified = run.last_block["model"]["keep all, centred"].certified
        assert certified.ci is not None
        assert certified.mean is not None
        low, high = map(share, certified.ci)
        text = f"{share(certified.mean)} [{low}, {high}]"
        assert [line for line in lines if line.startswith("keep all, centred") and text in line]
        assert run.loss is not None
        claimed = run.loss.claimed
        assert claimed.ci is not None
        nats = f"{claimed.mean:.3f} [{claimed.ci[0]:.3f}, {claimed.ci[1]:.3f}]"
        assert [line for line in lines if "1.952 [1.708, 2.196]" in line and nats in line]
    pairs = [line.split() for line in lines if line.startswith("7 1001")]
    assert ["7", "1001", "61.500", "1", "1.0,", "1.1,", "1.2", "1.0", "2.000"] in pairs


def test_every_step_is_one_line() -> None:
    result = AttributionResult.from_json(attribution())
    lines = rendered(result)
    for run in result.runs.values():
        for stage in run.chains["dominant, attention measured"].stages:
            rows = [line.split() for line in lines if line.startswith(f"{stage.short} ")]
            assert len(rows) == 2
            words = len(stage.short.split())
            assert {len(row) - words for row in rows} == {6}
    bounds = [line for line in lines if "56.25" in line and "0 attention moves" in line]
    assert len([line for line in bounds if "nothing" in line]) == 4


def test_bounds_are_rounded_outward() -> None:
    assert (at_least()(0.99999), at_most()(0.99991)) == ("0.999", "1.000")
    assert (at_least(1, percent=True)(0.9999), at_most(1, percent=True)(0.1)) == ("99.9%", "10.1%")
    assert (at_least(2)(-1e-9), at_most(2)(-1e-9)) == ("−0.01", "0.00")
    assert (at_least(2)(1e30), at_most(0)(1234.5)) == (
        "1,000,000,000,000,000,019,884,624,838,656.00",
        "1,235",
    )


def test_the_last_block_alone() -> None:
    result = AttributionResult.from_json(attribution(last_block_only=True))
    text = "\n".join(rendered(result))
    assert "Cross-entropy" not in text
    assert "against all latents" in text
    assert "cost the proof most" in text
    assert result.best_chain is None


def test_names_are_no_markup() -> None:
    result = AttributionResult.from_json(attribution(names=("[red]one", "two")))
    assert "[red]one" in "\n".join(rendered(result))


def test_the_chain_with_the_least_bound_is_shown() -> None:
    content = attribution()
    first = AttributionResult.from_json(content).best_chain
    assert first == "dominant, attention measured"  # the first of equals
    content["runs"]["penalised"]["chains"]["additive, attention bounded"]["loss_bound"] = {
        "mean": 9.0,
        "ci": [8.0, 10.0],
    }
    best = AttributionResult.from_json(content).best_chain
    assert best == "additive, attention bounded"


def test_json_comes_back_as_it_was() -> None:
    content = attribution()
    result = AttributionResult.from_json(content)
    assert AttributionResult.from_json(result.to_json()) == result
    for name, run in result.to_json()["runs"].items():
        assert run == content["runs"][name]
