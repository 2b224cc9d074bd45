"""Charts as PNG and HTML from one description, and the page of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossproof.errors import CrossproofError
from paper.clusters.examples import RULE
from paper.drawing.charts import Chart, Heatmap, Panel, Series
from paper.drawing.html import draw_html
from paper.drawing.look import bar_places, errors
from paper.drawing.png import draw_png
from paper.drawing.words import number, shown, table
from paper.measuring.settings import FigureSettings
from paper.publish import command, write
from paper.registry import NAMES, available, figure_module
from paper.scripts.results_page import ALGORITHMS, ResultsPage, anchor, page
from paper.scripts.results_page import main as write_page

PAPER = Path(__file__).parents[2] / "paper"
RESULTS = sorted((PAPER / "data" / "results").glob("*.json"))
LINES = Panel(
    "Trade-off",
    "strength",
    "Φ",
    [
        Series("none", [], [0.3], [0.28], [0.32], kind="level"),
        Series("interaction", [1, 10, 100], [0.3, 0.35, 0.2], [0.2, 0.3, 0.1], [0.4, 0.4, 0.3]),
    ],
    x_log=True,
    y_range=(0, 1),
)
BARS = Panel(
    "Schemes",
    "",
    "Φ",
    [Series(name, ["all", "keep"], [1, 0.5], [0.9, 0.4], [1.1, 0.6], "bars") for name in "ab"],
)
PLANE = Panel(
    "Plane",
    "x",
    "y",
    [Series("runs", [0.1, 0.4], [0.2, 0.3], kind="points", labels=["first", "second"])],
    diagonal=True,
)
MATRIX = Panel(
    "Matrix", heat=Heatmap(["r", "s"], ["c", "d", "e"], [[1, -2, 3], [0, 1, 2]], True, True)
)
CHART = Chart("Everything at once", [LINES, BARS, PLANE, MATRIX])


def test_equal_charts_give_equal_pictures_and_others_do_not(tmp_path: Path) -> None:
    for name, chart in (("a", CHART), ("b", CHART), ("c", Chart("Other", [LINES]))):
        draw_png(chart, tmp_path / f"{name}.png")
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a.startswith(b"\x89PNG")
    assert a == b != c
    assert len(a) < 150_000


def test_the_page_holds_every_panel_and_works_offline(tmp_path: Path) -> None:
    draw_html(CHART, tmp_path / "chart.html")
    page = (tmp_path / "chart.html").read_text()
    for text in ("Everything at once", "Trade-off", "Matrix", "interaction", "second"):
        assert text in page
    assert "https://cdn" not in page
    assert (tmp_path / "plotly.min.js").stat().st_size > 1e6


def test_bars_of_a_category_stand_side_by_side() -> None:
    (first, width), (second, _) = (bar_places(series, BARS) for series in BARS.series)
    assert first == pytest.approx([-0.2, 0.8])
    assert second == pytest.approx([0.2, 1.2])
    assert width < second[0] - first[0]


def test_error_bars_are_lengths_and_never_negative() -> None:
    assert errors([1.0, 2.0], [0.5, 2.5], [1.5, 3.0]) == ([0.5, 0.0], [0.5, 1.0])
    assert errors([1.0], None, None) is None


def test_words() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert shown({"mean": 0.31549, "ci": [0.31, 1234.5]}) == "0.315 [0.310, 1,234]"
    assert number(-0.0501, 2) == "−0.05"


def test_figures_are_published_and_the_page_links_them(tmp_path: Path) -> None:
    results = tmp_path / "results"
    for name in ("fig7", "fig2"):
        content = {
            "figure": name,
            "title": f"Figure: {name} (one)",
            "command": command(name, FigureSettings(quick=True, seeds=(4,))),
            "charts": {name: "A chart"},
            "words": "What it shows.",
            "numbers": {"phi": 0.5},
        }
        write(content, {"main": Chart("A chart", [LINES])}, results)
    assert json.loads((results / "fig2.json").read_text())["numbers"] == {"phi": 0.5}
    assert "![A chart](fig2.png)" in (results / "fig2.md").read_text()
    write_page(ResultsPage(take=results, paper=tmp_path / "paper"))
    pages = tmp_path / "paper" / "pages"
    page = (pages / "results.md").read_text()
    assert page.index("## Figure: fig2") < page.index("## Figure: fig7")
    assert "`python -m paper fig2 --quick --seeds 4`" in page
    for path in ("figures/fig2.png", "../data/results/fig7.json"):
        assert f"]({path})" in page
        assert (pages / path).exists()
    assert f"](#{anchor('Figure: fig2 (one)')})" in page
    assert anchor("Figure: fig2 (one)") == "figure-fig2-one"


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CrossproofError, match=r"no figure 'fig77'.*fig2.*or all"):
        figure_module("fig77")


@pytest.mark.parametrize("name", available())
def test_every_figure_has_a_title_and_its_three_parts(name: str) -> None:
    assert name in NAMES
    module = figure_module(name)
    assert module.TITLE
    assert "\n" not in module.TITLE
    assert all(callable(part) for part in (module.compute, module.charts, module.words))


def test_the_page_prints_ten_clusters_of_each_crosscoder_by_the_rule() -> None:
    content = json.loads((PAPER / "data" / "clusters.json").read_text())
    text = page([], {"affinity": content})
    for figures in content["runs"].values():
        assert len(figures["examples"]) == 10
        for row in figures["examples"]:
            assert f"* rank {row['rank']} of {row['of']}, {len(row['latents'])} latents" in text
            assert all(
                f"{latent}: {about}" in text for latent, about in row["explanations"].items()
            )
    assert RULE in text


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_words_and_charts_are_those_of_the_numbers(path: Path) -> None:
    """`results_page --rewrite` writes them anew after a change of the words."""
    content = json.loads(path.read_text())
    module = figure_module(content["figure"])
    assert module.words(content["numbers"]).strip() == content["words"]
    charts = module.charts(content["numbers"])
    assert [chart.title for chart in charts.values()] == list(content["charts"].values())
    assert content["command"].startswith(f"python -m paper {content['figure']} ")
    assert all((PAPER / "pages" / "figures" / f"{name}.png").exists() for name in content["charts"])


def test_the_published_page_is_that_of_the_data() -> None:
    contents = [json.loads(path.read_text()) for path in RESULTS]
    clusters = {
        name: json.loads((PAPER / "data" / f"{stem}.json").read_text())
        for name, stem in ALGORITHMS.items()
    }
    assert page(contents, clusters) == (PAPER / "pages" / "results.md").read_text()
