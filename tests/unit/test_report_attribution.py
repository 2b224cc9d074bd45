"""The report's section on an attribution says what attribution.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reports import attribution, evaluation, results

from crossproof.proof.attribution.reading import best_chain
from crossproof.report import write_report
from crossproof.report.attribution import AttributedRuns, attributed, attributed_runs
from crossproof.report.attribution_figures import certified_panels, chain_panels
from crossproof.report.runs import Run, runs_of

CHAIN = "dominant, attention measured"


@pytest.fixture(autouse=True)
def light_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossproof.report.page.get_plotlyjs", lambda: "/* plotly.js */")


def section(content: dict[str, Any], runs: list[Run] | None = None) -> AttributedRuns:
    found = attributed_runs(content, runs or runs_of(evaluation()))
    assert found is not None
    return found


def page(folder: Path, content: dict[str, Any] | None, of: dict[str, Any] | None = None) -> str:
    path = write_report(folder, evaluation(of), attribution=content)
    return path.read_text(encoding="utf-8")


def test_the_table_holds_the_figures() -> None:
    content = attribution()
    rows = {row.label: row for group in section(content).groups for row in group.rows}
    for place, figures in enumerate(content["runs"].values()):
        chain = figures["chains"][CHAIN]
        shown = {label: row.cells[place] for label, row in rows.items()}
        expected = {
            "The model’s loss": figures["loss"]["true"],
            "Claimed loss": figures["loss"]["claimed"],
            "Bound": chain["loss_bound"],
            "Tokens with a vacuous bound": chain["vacuous_tokens"],
        }
        for label, figure in expected.items():
            value = shown[label].value
            assert value is not None
            assert [value.mean, *value.ends] == [figure["mean"], *figure["ci"]]
        assert shown["Verdict"].text == "vacuous"
        assert shown["First vacuous step"].text == "block 0, MLP moves"
        ball = shown["Of it, the ball’s own growth"].value
        whole = chain["stages"][-1]["radius"]
        assert ball is not None
        assert ball.mean == pytest.approx(
            sum(s["adds"]["mean"] for s in chain["stages"] if "moves" in s["part"]) / whole
        )


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
    verdicts = {row.label: row.cells[0].text for group in found.groups for row in group.rows}
    assert verdicts["Verdict"] == "not vacuous"
    assert verdicts["First vacuous step"] == "none"


def test_a_vacuous_claim_is_called_that() -> None:
    content = attribution()
    content["runs"]["penalised"]["chains"][CHAIN]["mean_first_vacuous"] = "claimed loss"
    content["runs"]["penalised"]["baselines"]["log_classes"] = 2.25
    found = section(content)
    assert "“penalised”: the claim itself is vacuous, at 2.510 nats" in found.breaks[1]
    table = {row.label: row.cells[1].text for group in found.groups for row in group.rows}
    assert table["First vacuous step"] == "claimed loss"


def test_the_vacuity_is_explained_by_the_lesser_baseline() -> None:
    content = attribution()
    for figures in content["runs"].values():
        figures["baselines"]["log_classes"] = 5.0
    assert "From 5.000 nats on a bound is vacuous: guessing evenly" in section(content).limit


def test_costs_are_listed_side_by_side() -> None:
    costs = section(attribution()).costs["unpenalised"]
    assert costs.whole == "800.0 a token in all; the 8 neurons below carry 1.6% of it"
    first, second = costs.rows[:2]
    assert (first.latents, first.pair_cost, first.block) == ("7, 1001", "61.50", "1")
    assert (first.neuron, first.neuron_cost) == ("0 in block 1", "2.000")
    assert (second.latents, second.neuron) == ("", "1 in block 1")


def test_the_chain_is_drawn_with_its_line_of_vacuity() -> None:
    content = attribution()
    loss, radius = (figure for _, _, figure in chain_panels(content, runs_of(evaluation())))
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
    _, (_, _, figure) = chain_panels(content, runs_of(evaluation()))
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
    panels = chain_panels(content, runs_of(evaluation()))
    assert all(figure.layout.height <= 900 for _, _, figure in panels)


def test_certified_shares_are_drawn_against_the_proofs_length() -> None:
    content = attribution()
    panels = certified_panels(content, runs_of(evaluation()))
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
    assert chain_panels(content, runs_of(evaluation())) == []
    assert best_chain(content["runs"].values()) is None


def test_a_run_that_was_not_attributed_has_dashes(tmp_path: Path) -> None:
    content = attribution()
    del content["runs"]["unpenalised"]
    found = section(content)
    assert {row.cells[0].text for group in found.groups for row in group.rows} == {"–"}
    assert list(found.costs) == ["penalised"]
    assert "How far a proof gets" in page(tmp_path, content)
    content["runs"] = {"another": attribution()["runs"]["penalised"]}
    assert attributed_runs(content, runs_of(evaluation())) is None
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
    assert "no interaction is charged" in text
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
    assert attributed(tmp_path, "0123456789abcdef") is None
    (tmp_path / "attribution").mkdir()
    (tmp_path / "attribution" / "attribution.json").write_text(json.dumps(attribution()))
    assert attributed(tmp_path, "0123456789abcdef") == attribution()
    assert attributed(tmp_path, "other weights") is None


def test_the_chain_with_the_least_bound_is_shown() -> None:
    content = attribution()
    assert best_chain(content["runs"].values()) == CHAIN  # the first of equals
    content["runs"]["penalised"]["chains"]["additive, attention bounded"]["loss_bound"] = {
        "mean": 9.0,
        "ci": [8.0, 10.0],
    }
    assert best_chain(content["runs"].values()) == "additive, attention bounded"
