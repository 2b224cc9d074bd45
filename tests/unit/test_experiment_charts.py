"""Charts as PNG and HTML from one description, and the page of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossproof.errors import CrossproofError
from paper.cluster_examples import RULE
from paper.draw_html import draw_html
from paper.draw_png import draw_png
from paper.figure import Chart, Figure, Heat, Panel, Series
from paper.look import bar_places, errors
from paper.publish import command, write
from paper.registry import NAMES, available, experiment
from paper.scripts.results_page import Options, anchor, page
from paper.scripts.results_page import main as write_page
from paper.settings import Settings
from paper.words import number, shown, table

DOCS = Path(__file__).parents[2] / "docs"
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
    "Matrix", heat=Heat(["r", "s"], ["c", "d", "e"], [[1, -2, 3], [0, 1, 2]], True, True)
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
    assert number(-0.0501, 2) == "-0.05"


def test_figures_are_published_and_the_page_links_them(tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    results.mkdir()
    docs.mkdir()
    for name in ("fig7", "fig2"):
        figure = Figure({"phi": 0.5}, {"main": Chart("A chart", [LINES])}, "What it shows.")
        content = {
            "figure": name,
            "title": f"Figure: {name} (one)",
            "command": command(name, Settings(quick=True, seeds=(4,))),
            "charts": {name: "A chart"},
            "words": figure.words,
            "numbers": figure.numbers,
        }
        write(content, figure, results)
    assert json.loads((results / "fig2.json").read_text())["numbers"] == {"phi": 0.5}
    assert "![A chart](fig2.png)" in (results / "fig2.md").read_text()
    write_page(Options(results, docs))
    page = (docs / "results.md").read_text()
    assert page.index("## Figure: fig2") < page.index("## Figure: fig7")
    assert "`crossproof reproduce fig2 --quick --seeds 4`" in page
    for path in ("figures/fig2.png", "data/results/fig7.json"):
        assert f"]({path})" in page
        assert (docs / path).exists()
    assert f"](#{anchor('Figure: fig2 (one)')})" in page
    assert anchor("Figure: fig2 (one)") == "figure-fig2-one"


def test_an_unknown_figure_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CrossproofError, match=r"no figure 'fig77'.*fig2.*or all"):
        experiment("fig77")


@pytest.mark.parametrize("name", available())
def test_every_figure_has_a_title_and_a_run(name: str) -> None:
    assert name in NAMES
    module = experiment(name)
    assert module.TITLE
    assert "\n" not in module.TITLE
    assert callable(module.run)


def test_the_page_prints_ten_clusters_of_each_crosscoder_by_the_rule() -> None:
    content = json.loads((DOCS / "data" / "clusters.json").read_text())
    text = page([], {"affinity": content})
    for figures in content["runs"].values():
        assert len(figures["examples"]) == 10
        for row in figures["examples"]:
            assert f"* rank {row['rank']} of {row['of']}, {len(row['latents'])} latents" in text
            assert all(
                f"{latent}: {about}" in text for latent, about in row["explanations"].items()
            )
    assert RULE in text
