"""Writes a figure: FIGURE.json (numbers), FIGURE[-CHART].png and .html, FIGURE.md (words)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossproof.files import make_folder, write_json, write_text
from paper.drawing.charts import Chart
from paper.drawing.html import draw_html
from paper.drawing.png import draw_png
from paper.measuring.settings import FigureSettings
from paper.registry import figure_module

SCHEMA = 1
MAIN = "main"


def reproduce(name: str, settings: FigureSettings) -> dict[str, Any]:
    """Computes a figure and writes it below `settings.out`; returns what its JSON holds.

    Raises CrossproofError for an unknown figure, and if the folder cannot be written.
    """
    module = figure_module(name)
    make_folder(settings.out)  # before the work, not after it
    numbers = module.compute(settings)
    charts = module.charts(numbers)
    content = {
        "schema": SCHEMA,
        "figure": name,
        "title": module.TITLE,
        "command": command(name, settings),
        "charts": {stem(name, chart): c.title for chart, c in charts.items()},
        "words": module.words(numbers).strip(),
        "numbers": numbers,
    }
    write(content, charts, settings.out)
    return content


def write(content: Mapping[str, Any], charts: Mapping[str, Chart], out: Path) -> None:
    """The files of one figure; a number that JSON cannot hold (NaN) is an error, not a word."""
    name = content["figure"]
    write_json(out / f"{name}.json", content)
    for chart, description in charts.items():
        draw_png(description, out / f"{stem(name, chart)}.png")
        draw_html(description, out / f"{stem(name, chart)}.html")
    write_text(out / f"{name}.md", section(content) + "\n")


def section(content: Mapping[str, Any], pictures: str = "", data: str = "", level: int = 1) -> str:
    """The figure as Markdown; `pictures` and `data` are where its PNGs and its JSON lie."""
    images = [f"![{title}]({pictures}{chart}.png)" for chart, title in content["charts"].items()]
    source = f"Numbers: [{content['figure']}.json]({data}{content['figure']}.json)"
    lines = [
        f"{'#' * level} {content['title']}",
        *images,
        content["words"],
        f"{source}, from `{content['command']}`.",
    ]
    return "\n\n".join(line for line in lines if line)


def command(name: str, settings: FigureSettings) -> str:
    """The command line that makes these numbers again."""
    parts = ["python -m paper", name]
    parts += ["--quick"] if settings.quick else []
    parts += [f"--model {settings.model}"] if settings.model != "bundled" else []
    parts += [f"--text {settings.text}"] if settings.text != "bundled" else []
    return " ".join([*parts, "--seeds", *map(str, settings.seeds)])


def stem(name: str, chart: str) -> str:
    """The name of a chart's files."""
    return name if chart == MAIN else f"{name}-{chart}"
