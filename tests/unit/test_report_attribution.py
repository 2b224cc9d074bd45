"""The report's section on an attribution says what attribution.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reports import attribution, results

from crossproof.errors import CrossproofError
from crossproof.evaluation import RunEvaluation
from crossproof.proof.attribution import AttributionResult
from crossproof.report import write_report
from crossproof.report.attribution import AttributionSection, attribution_section
from crossproof.report.attribution_figures import certified_panels, chain_panels
from crossproof.report.run import stored
from crossproof.report.runs import ShownRun, runs_of

CHAIN = "dominant, attention measured"
KEYS = ("true", "claimed")


@pytest.fixture(autouse=True)
def light_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossproof.report.page.get_plotlyjs", lambda: "/* plotly.js */")


def read(content: dict[str, Any]) -> AttributionResult:
    return AttributionResult.from_json(content)


def shown() -> list[ShownRun]:
    return runs_of(RunEvaluation.from_json(results()))


def section(content: dict[str, Any], runs: list[ShownRun] | None = None) -> AttributionSection:
    found = attribution_section(read(content), runs or shown())
    assert found is not None
    return found


def page(folder: Path, content: dict[str, Any] | None, of: dict[str, Any] | None = None) -> str:
    result = None if content is None else read(content)
    evaluation = RunEvaluation.from_json(of or results())
    path = write_report(folder, evaluation, attribution=result)
    return path.read_text(encoding="utf-8")


def test_the_tables_hold_the_figures() -> None:
    content = attribution()
    losses, bounds, ball = section(content).tables
    for name, figures in content["runs"].items():
        chain = figures["chains"][CHAIN]
        loss = {row.label: row.values for row in losses.rows}[name]
        assert [value.mean for value in loss] == [figures["loss"][k]["mean"] for k in KEYS]
        assert [list(value.ci) for value in loss] == [figures["loss"][k]["ci"] for k in KEYS]
        row = next(r for r in bounds.rows if r.label == name and r.values[1] == "measured")
        assert row.values[2:5] == (chain["loss_bound"]["mean"], "nothing", "0 MLP moves")
        radius, truth, growth = {row.label: row.values for row in ball.rows}[name]
        assert (radius, truth) == (chain["stages"][-1]["radius"], figures["true_radius"][-1])
        moves = sum(s["adds"]["mean"] for s in chain["stages"] if "moves" in s["part"])
        assert growth == pytest.approx(moves / chain["stages"][-1]["radius"])


def test_the_words_follow_the_numbers() -> None:
    content = attribution()
    found = section(content)
    assert found.tokens == "each of 2,028 tokens"
    assert "From 5.500 nats" in found.limit
    assert "passes 5.500 nats at “block 0, MLP moves” and ends at 56.25" in found.breaks[0]
    assert "adds 1,203.0 to the radius (16.00 if the ball" in found.breaks[0]
    assert "truly moves by 0.500); 6.2% of the tokens" in found.breaks[0]
    assert "at most 25.0% of the predictions in “unpenalised”" in found.kept[0]
    assert "87.5% truly stay (keep all, centred: 2,048 pairs)" in found.kept[0]
    assert "26.0% of the predictions in “penalised”" in found.kept[0]
    assert "(keep 8, centred: 1,024 pairs)" in found.kept[1]


def test_a_bound_that_says_something_is_called_that() -> None:
    content = attribution()
    for figures in content["runs"].values():
        for chain in figures["chains"].values():
            chain |= {"vacuous": False, "mean_first_vacuous": None}
    found = section(content)
    assert "below 5.500: it says something. It is vacuous at 93.8%" in found.breaks[0]
    assert {row.values[3:5] for row in found.tables[1].rows} == {("something", "never")}


def test_a_vacuous_claim_is_called_that() -> None:
    content = attribution()
    content["runs"]["penalised"]["chains"][CHAIN]["mean_first_vacuous"] = "claimed loss"
    content["runs"]["penalised"]["baselines"]["log_classes"] = 2.25
    found = section(content)
    assert "“penalised”: the claim itself is vacuous, at 2.510 nats" in found.breaks[1]
    assert "claimed loss" in {row.values[4] for row in found.tables[1].rows}


def test_the_vacuity_is_explained_by_the_lesser_baseline() -> None:
    content = attribution()
    for figures in content["runs"].values():
        figures["baselines"]["log_classes"] = 5.0
    assert "From 5.000 nats on a bound is vacuous: guessing evenly" in section(content).limit


def test_costs_are_listed_side_by_side() -> None:
    costs = section(attribution()).costs["unpenalised"]
    assert costs.note.startswith("800.0 a token in all; the 9 neurons carry 1.7% of it")
    first, second = (list(map(str, row.cells)) for row in costs.rows[:2])
    assert [costs.rows[0].label, *first[:2]] == ["7 1001", "61.500", "1"]
    assert first[3:] == ["1.0", "2.000"]
    assert [costs.rows[1].label, *second[:3], second[3]] == ["", "", "", "", "1.1"]


def test_the_chain_is_drawn_with_its_line_of_vacuity() -> None:
    content = attribution()
    loss, radius = (figure for _, _, figure in chain_panels(read(content), shown()))
    chain = content["runs"]["penalised"]["chains"][CHAIN]
    bounds = [stage["loss_bound"]["mean"] for stage in chain["stages"]]
    assert list(loss.data[1].x) == [2.51, *bounds]
    assert list(loss.data[1].y)[:3] == ["claimed loss", "base", "0 attention error"]
    assert {shape.x0 for shape in loss.layout.shapes} == {5.5, 1.952}
    line, truth = radius.data[2:]
    assert list(line.x) == [None, *(stage["radius"] for stage in chain["stages"])]
    assert list(truth.x) == content["runs"]["penalised"]["true_radius"]
    assert list(truth.y) == [
        "base", "0 attention error", "0 MLP consistency", "1 attention error", "1 MLP consistency"
    ]  # fmt: skip
    assert line.line.color == "var(--run-2)"


def test_a_radius_of_zero_is_left_out_of_the_logarithmic_axis() -> None:
    content = attribution()
    content["runs"]["penalised"]["true_radius"][0] = 0.0
    content["runs"]["penalised"]["chains"][CHAIN]["stages"][0]["radius"] = 0.0
    _, (_, _, figure) = chain_panels(read(content), shown())
    assert figure.data[2].x[1] is None
    assert figure.data[3].x[0] is None


def test_many_blocks_stay_on_a_page() -> None:
    content = attribution()
    for figures in content["runs"].values():
        stages = figures["chains"][CHAIN]["stages"]
        figures["chains"][CHAIN]["stages"] = [
            stage | {"stage": f"blocks.{block} {stage['part']}"}
            for block in range(60)
            for stage in stages[1:6]
        ]
    panels = chain_panels(read(content), shown())
    assert all(figure.layout.height <= 900 for _, _, figure in panels)


def test_certified_shares_are_drawn_against_the_proofs_length() -> None:
    content = attribution()
    panels = certified_panels(read(content), shown())
    assert [title for title, _, _ in panels] == ["Against the model", "Against all latents"]
    figure = panels[0][2]
    truth, plain, centred = figure.data[3:6]
    variants = content["runs"]["penalised"]["last_block"]["model"]
    for trace, end in ((plain, ""), (centred, ", centred")):
        rows = [variants[f"keep {m}{end}"] for m in (1, 8, "all")]
        assert list(trace.x) == [row["terms"] for row in rows]
        assert list(trace.y) == [row["certified"]["mean"] for row in rows]
        highs = [mean + up for mean, up in zip(trace.y, trace.error_y.array, strict=True)]
        assert highs == pytest.approx([row["certified"]["ci"][1] for row in rows])
        lows = [mean - up for mean, up in zip(trace.y, trace.error_y.arrayminus, strict=True)]
        assert lows == pytest.approx([row["certified"]["ci"][0] for row in rows])
    assert (plain.line.dash, centred.line.dash) == ("dot", "solid")
    assert list(truth.y) == [0.875] * 3
    assert list(figure.data[6].text) == ["1", "8", "all"]
    assert "unpenalised 0.0% to 25.0%" in panels[0][1]


def test_the_page_has_the_section(tmp_path: Path) -> None:
    text = page(tmp_path, attribution())
    assert "How far a proof gets" in text
    assert "An attribution, not a certificate" in text
    assert "What costs most" in text
    for name in ("chain-0", "chain-1", "certified-0", "certified-1"):
        assert f'id="plot-{name}"' in text
    assert text.index('id="attribution"') < text.index('id="reproduce"')
    assert "How far a proof gets" not in page(tmp_path, None)


def test_the_last_block_alone(tmp_path: Path) -> None:
    content = attribution(last_block_only=True)
    text = page(tmp_path, content)
    assert "the encoder ran at every token" in text
    assert "The claim is a loss" not in text
    assert 'id="plot-chain-0"' not in text
    assert 'id="plot-certified-1"' in text
    assert chain_panels(read(content), shown()) == []


def test_a_run_that_was_not_attributed_is_left_out(tmp_path: Path) -> None:
    content = attribution()
    del content["runs"]["unpenalised"]
    found = section(content)
    assert {row.label for table in found.tables for row in table.rows} == {"penalised"}
    assert list(found.costs) == ["penalised"]
    assert "How far a proof gets" in page(tmp_path, content)
    content["runs"] = {"another": attribution()["runs"]["penalised"]}
    assert attribution_section(read(content), shown()) is None
    assert "How far a proof gets" not in page(tmp_path, content)


def test_missing_parts_are_left_out(tmp_path: Path) -> None:
    content = attribution()
    for figures in content["runs"].values():
        figures["costs"] = {"pairs": [], "neurons": []}
        figures["attention_unbounded_because"] = "Its scores are <not> bilinear."
        del figures["last_block"]["all latents"]
        chains = figures["chains"].items()
        figures["chains"] = {name: chain for name, chain in chains if "measured" in name}
    text = page(tmp_path, content)
    assert "No interaction is charged" in text
    assert "not bounded. Its scores are &lt;not&gt; bilinear." in text
    assert 'id="plot-certified-1"' not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    nasty = "</script><img src=x>"
    of = results()
    of["runs"] = {nasty: of["runs"]["penalised"]}
    text = page(tmp_path, attribution(names=(nasty,)), of)
    assert "<img" not in text
    assert "&lt;/script&gt;&lt;img src=x&gt;" in text


def test_an_attribution_of_other_weights_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "attribution.json"
    assert stored(path, AttributionResult, "0123456789abcdef") is None
    path.write_text(json.dumps(attribution()))
    assert stored(path, AttributionResult, "0123456789abcdef") == read(attribution())
    assert stored(path, AttributionResult, "other weights") is None
    path.write_text("{}")
    with pytest.raises(CrossproofError, match="make it again"):
        stored(path, AttributionResult, "0123456789abcdef")
