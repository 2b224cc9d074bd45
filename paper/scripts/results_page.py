"""Writes docs/results.md from the numbers of `crossproof reproduce`.

    python paper/scripts/results_page.py --take results  # copy finished figures, then write
    python paper/scripts/results_page.py                 # write from what docs hold already

Every section ends with the JSON file its claims come from and the command that makes it again. The
last section is of `paper/scripts/judge_clusters.py`, whose numbers are in docs/data/clusters.json.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from paper.ablation_words import headline
from paper.cluster_comparison_words import accuracies, chosen, figure, listed
from paper.cluster_examples import RULE
from paper.publish import section
from paper.registry import NAMES
from paper.words import size, table

HEAD = """# Results

Figures of the paper on the bundled model, with the controls it lacked, as `crossproof \
reproduce` made them; a figure that is not listed has not been made at its published size yet. \
A section says how many seeds it has. This page is written by `paper/scripts/results_page.py` from \
[data/results](data/results): words and tables are computed from the numbers there. \
`make reproduce` makes all of them again; equal seeds and thread counts give equal numbers on the \
same machine. All figures are of held-out text unless a table says otherwise."""


CLUSTERS = "Clusters of the demo's crosscoders, ten of them printed"
COMPARED = ("I-normalised", "Q-normalised", "coactivation-normalised", "phi", "decoder-cosine")
ALGORITHMS = {
    "affinity": "clusters",
    "agglomerative": "clusters-agglomerative",
    "spectral": "clusters-spectral",
}
"""Files of docs/data."""


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


def page(contents: list[dict[str, Any]], clusters: dict[str, Any] | None = None) -> str:
    """The page: a list of the figures, then a section each, in the paper's order.

    `clusters` are the contents of `paper/scripts/judge_clusters.py` by algorithm.
    """
    ordered = sorted(contents, key=lambda content: NAMES.index(content["figure"]))
    titles = [content["title"] for content in ordered] + [CLUSTERS] * bool(clusters)
    links = [f"* [{title}](#{anchor(title)})" for title in titles]
    sections = [section(c, "figures/", "data/results/", level=2) for c in ordered]
    if clusters:
        sections += [clusters_section(clusters["affinity"]), algorithms_section(clusters)]
    return "\n\n".join([HEAD, "\n".join(links), *_headline(ordered), *sections]) + "\n"


def clusters_section(content: dict[str, Any]) -> str:
    """What `paper/scripts/judge_clusters.py` found on a run's crosscoders, and clusters by rule."""
    parts = [
        f"## {CLUSTERS}",
        "Right one of five (chance .20), on text that was not measured; clusters of the reported "
        "half of the latents, three seeds of clustering, questions and controls, 95% intervals. "
        "Differences and accuracy by size are in [clusters.md](data/clusters.md), the task and "
        "what follows are in [Clusters of latents](clusters.md).",
    ]
    for name, figures in content["runs"].items():
        parts += [f"### {name}", chosen(figures)]
        for material in figures["report"]:
            parts += [f"Judged on {material}:", accuracies(figures, material)]
        best = figures["chosen"]["interaction"]
        parts += [f"Ten clusters of the reported half, by {best}. {RULE}"]
        parts += [listed(figures["examples"])]
    command = f"crossproof measure {content['settings']['run']}` and `"
    command += f"python paper/scripts/judge_clusters.py {content['settings']['run']}"
    parts += [f"Numbers: [clusters.json](data/clusters.json), from `{command}`."]
    return "\n\n".join(parts)


def algorithms_section(clusters: dict[str, Any]) -> str:
    """The same question with other algorithms, of a few similarities."""
    rows = []
    for algorithm, content in clusters.items():
        for name, figures in content["runs"].items():
            by_judge = figures["report"]["explanations"]["embedding"]
            for similarity in COMPARED:
                own = [summary[similarity] for summary in figures["similarities"]]
                halves = own[0]["agreement_halves"]
                rows.append(
                    [
                        f"{algorithm}, {name}",
                        similarity,
                        f"{own[0]['clusters'][0]}",
                        f"{max(own[0]['largest'])}",
                        "–" if halves is None else f"{halves:.2f}",
                        figure(by_judge[similarity]["clusters"]),
                        figure(by_judge[similarity]["random, matched"]),
                    ]
                )
    head = ["algorithm", "similarity", "clusters", "largest", "ARI halves", "embedding", "matched"]
    return "\n\n".join(
        [
            "### Other algorithms",
            "Judged on explanations by the embedding model. Agglomerative (average linkage) and "
            "spectral clustering make one cluster for every six latents; those of one latent are "
            "not counted.",
            table(head, rows),
            "Numbers: docs/data/clusters-ALGORITHM.json, from the same command with "
            "`--algorithm ALGORITHM`.",
        ]
    )


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
    judged = {name: options.docs / f"data/{stem}.json" for name, stem in ALGORITHMS.items()}
    clusters = {n: json.loads(path.read_text()) for n, path in judged.items() if path.exists()}
    target.write_text(page([json.loads(path.read_text()) for path in found], clusters))
    print(target)


if __name__ == "__main__":
    main(tyro.cli(Options))
