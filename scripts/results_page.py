"""Writes docs/results.md from the numbers of `crossproof reproduce`.

    python scripts/results_page.py --take results  # copy finished figures into docs, then write
    python scripts/results_page.py                 # write from what docs hold already

Every section ends with the JSON file its claims come from and the command that makes it again.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from crossproof.experiments.ablation_words import headline
from crossproof.experiments.publish import section
from crossproof.experiments.registry import NAMES
from crossproof.experiments.words import size

HEAD = """# Results

Figures of the paper on the bundled model, with the controls it lacked, as `crossproof \
reproduce` made them; a figure that is not listed has not been made at its published size yet. \
A section says how many seeds it has. This page is written by `scripts/results_page.py` from \
[data/results](data/results): words and tables are computed from the numbers there. \
`make reproduce` makes all of them again; equal seeds and thread counts give equal numbers on the \
same machine. All figures are of held-out text unless a table says otherwise."""


@dataclass(frozen=True)
class Options:
    """Where figures come from and go to."""

    take: Path | None = None
    """Copy the figures of this folder, as written by `crossproof reproduce`, into docs first."""
    docs: Path = Path("docs")


def take(source: Path, docs: Path) -> None:
    """Copies numbers into docs/data/results and pictures into docs/figures."""
    for path in sorted(source.glob("*.json")):
        content = json.loads(path.read_text())
        (docs / "data/results").mkdir(parents=True, exist_ok=True)
        (docs / "figures").mkdir(exist_ok=True)
        shutil.copy(path, docs / "data/results" / path.name)
        for chart in content["charts"]:
            shutil.copy(source / f"{chart}.png", docs / "figures" / f"{chart}.png")


def page(contents: list[dict[str, Any]]) -> str:
    """The page: a list of the figures, then a section each, in the paper's order."""
    ordered = sorted(contents, key=lambda content: NAMES.index(content["figure"]))
    links = [f"* [{c['title']}](#{anchor(c['title'])})" for c in ordered]
    sections = [section(c, "figures/", "data/results/", level=2) for c in ordered]
    return "\n\n".join([HEAD, "\n".join(links), *_headline(ordered), *sections]) + "\n"


def _headline(contents: list[dict[str, Any]]) -> list[str]:
    """The headline and its controls, if the ablation has been run."""
    for content in contents:
        if content["figure"] == "ablation":
            numbers = content["numbers"]
            source = f"From [ablation.json](data/results/ablation.json), `{content['command']}`."
            return ["## Headline", size(numbers["setup"]), headline(numbers), source]
    return []


def anchor(title: str) -> str:
    """The fragment that Markdown renderers give a heading."""
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")


def main(options: Options) -> None:
    """Takes what is new and writes the page."""
    if options.take is not None:
        take(options.take, options.docs)
    found = sorted((options.docs / "data/results").glob("*.json"))
    target = options.docs / "results.md"
    target.write_text(page([json.loads(path.read_text()) for path in found]))
    print(target)


if __name__ == "__main__":
    main(tyro.cli(Options))
