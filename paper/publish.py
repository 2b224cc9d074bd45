"""Writes a figure: FIGURE.json (numbers), FIGURE[-CHART].png and .html, FIGURE.md (words)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossproof.errors import CrossproofError
from paper.draw_html import draw_html
from paper.draw_png import draw_png
from paper.figure import Figure
from paper.registry import experiment
from paper.settings import Settings

SCHEMA = 1
MAIN = "main"


def reproduce(name: str, settings: Settings) -> dict[str, Any]:
    """Computes a figure and writes it below `settings.out`; returns what its JSON holds.

    Raises CrossproofError for an unknown figure, and if the folder cannot be written.
    """
    module = experiment(name)
    with writing(settings.out):  # before the work, not after it
        settings.out.mkdir(parents=True, exist_ok=True)
    figure = module.run(settings)
    content = {
        "schema": SCHEMA,
        "figure": name,
        "title": module.TITLE,
        "command": command(name, settings),
        "charts": {stem(name, chart): c.title for chart, c in figure.charts.items()},
        "words": figure.words.strip(),
        "numbers": figure.numbers,
    }
    with writing(settings.out):
        write(content, figure, settings.out)
    return content


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turns errors of the file system into one sentence."""
    try:
        yield
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {out} ({error.strerror}): choose a writable --out."
        ) from error


def write(content: dict[str, Any], figure: Figure, out: Path) -> None:
    """The files of one figure."""
    name = content["figure"]
    # NaN is no JSON: a figure that has one must say None.
    (out / f"{name}.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    for chart, description in figure.charts.items():
        draw_png(description, out / f"{stem(name, chart)}.png")
        draw_html(description, out / f"{stem(name, chart)}.html")
    (out / f"{name}.md").write_text(section(content) + "\n")


def section(content: dict[str, Any], pictures: str = "", data: str = "", level: int = 1) -> str:
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


def command(name: str, settings: Settings) -> str:
    """The command line that makes these numbers again."""
    parts = ["crossproof reproduce", name]
    parts += ["--quick"] if settings.quick else []
    parts += [f"--model {settings.model}"] if settings.model != "bundled" else []
    parts += [f"--text {settings.text}"] if settings.text != "bundled" else []
    return " ".join([*parts, "--seeds", *map(str, settings.seeds)])


def stem(name: str, chart: str) -> str:
    """The name of a chart's files."""
    return name if chart == MAIN else f"{name}-{chart}"
