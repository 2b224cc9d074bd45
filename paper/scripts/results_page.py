"""Writes paper/pages/results.md from the numbers of `python -m paper`.

    python -m paper.scripts.results_page --take results  # copy finished figures, then write
    python -m paper.scripts.results_page                 # write from what paper/data holds already
    python -m paper.scripts.results_page --rewrite       # its words and pictures anew, too

Every section ends with the JSON file its claims come from and the command that makes it again. The
last section is of `paper.scripts.judge_clusters`, whose numbers are in paper/data/clusters.json.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from crossproof.files import make_folder, read_json, write_json, write_text
from paper.clusters.comparison_words import accuracies, chosen, figure, listed
from paper.clusters.examples import RULE
from paper.drawing.png import draw_png
from paper.drawing.words import size, table
from paper.figures.ablation_words import headline
from paper.publish import section, stem
from paper.registry import NAMES, figure_module

HEAD = """# Results

Figures of the paper on the bundled model, with the controls it lacked, as `python -m paper` made \
them; a figure that is not listed has not been made at its published size yet. \
A section says how many seeds it has. This page is written by `paper/scripts/results_page.py` from \
[paper/data/results](../data/results): words and tables are computed from the numbers there. \
`make reproduce` makes all of them again; equal seeds and thread counts give equal numbers on the \
same machine. All figures are of held-out text unless a table says otherwise."""

CLUSTERS = "Clusters of the demo's crosscoders, ten of them printed"
COMPARED = ("I-normalised", "Q-normalised", "coactivation-normalised", "phi", "decoder-cosine")
ALGORITHMS = {
    "affinity": "clusters",
    "agglomerative": "clusters-agglomerative",
    "spectral": "clusters-spectral",
}
"""Files of paper/data."""
FIGURES = "figures"


@dataclass(frozen=True)
class ResultsPage:
    """Where figures come from and go to."""

    take: Path | None = None
    """Copy the figures of this folder, as written by `python -m paper`, first."""
    rewrite: bool = False
    """Make words and pictures anew from the stored numbers, which stay as they are."""
    paper: Path = Path("paper")

    @property
    def results(self) -> Path:
        """Folder of the figures' numbers."""
        return self.paper / "data" / "results"

    @property
    def figures(self) -> Path:
        """Folder of their pictures."""
        return self.paper / "pages" / FIGURES


def take(source: Path, to: ResultsPage) -> None:
    """Copies numbers into paper/data/results and pictures into paper/pages/figures."""
    for folder in (to.results, to.figures):
        make_folder(folder)
    for path in sorted(source.glob("*.json")):
        shutil.copy(path, to.results / path.name)
        for chart in read_json(path)["charts"]:
            shutil.copy(source / f"{chart}.png", to.figures / f"{chart}.png")


def rewrite(to: ResultsPage) -> None:
    """Words, titles and pictures of every stored figure, from its numbers."""
    for path in sorted(to.results.glob("*.json")):
        content = read_json(path)
        name, numbers = content["figure"], content["numbers"]
        module = figure_module(name)
        charts = {stem(name, chart): made for chart, made in module.charts(numbers).items()}
        content |= {"title": module.TITLE, "words": module.words(numbers).strip()}
        content["charts"] = {chart: made.title for chart, made in charts.items()}
        write_json(path, content)
        for chart, made in charts.items():
            draw_png(made, to.figures / f"{chart}.png")


def page(contents: list[dict[str, Any]], clusters: dict[str, Any] | None = None) -> str:
    """The page: a list of the figures, then a section each, in the paper's order.

    `clusters` are the contents of `paper.scripts.judge_clusters` by algorithm.
    """
    ordered = sorted(contents, key=lambda content: NAMES.index(content["figure"]))
    titles = [content["title"] for content in ordered] + [CLUSTERS] * bool(clusters)
    links = [f"* [{title}](#{anchor(title)})" for title in titles]
    sections = [section(c, f"{FIGURES}/", "../data/results/", level=2) for c in ordered]
    if clusters:
        sections += [clusters_section(clusters["affinity"]), algorithms_section(clusters)]
    return "\n\n".join([HEAD, "\n".join(links), *_headline(ordered), *sections]) + "\n"


def clusters_section(content: dict[str, Any]) -> str:
    """What `paper.scripts.judge_clusters` found on a run's crosscoders, and clusters by rule."""
    parts = [
        f"## {CLUSTERS}",
        "Right one of five (chance .20), on text that was not measured; clusters of the reported "
        "half of the latents, three seeds of clustering, questions and controls, 95% intervals. "
        "Differences and accuracy by size are in [clusters.md](../data/clusters.md), the task and "
        "what follows are in [Clusters of latents](../../docs/clusters.md).",
    ]
    for name, figures in content["runs"].items():
        parts += [f"### {name}", chosen(figures)]
        for material in figures["report"]:
            parts += [f"Judged on {material}:", accuracies(figures, material)]
        best = figures["chosen"]["interaction"]
        parts += [f"Ten clusters of the reported half, by {best}. {RULE}"]
        parts += [listed(figures["examples"])]
    command = f"crossproof measure {content['settings']['run']}` and `"
    command += f"python -m paper.scripts.judge_clusters {content['settings']['run']}"
    parts += [f"Numbers: [clusters.json](../data/clusters.json), from `{command}`."]
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
            "Numbers: paper/data/clusters-ALGORITHM.json, from the same command with "
            "`--algorithm ALGORITHM`.",
        ]
    )


def _headline(contents: list[dict[str, Any]]) -> list[str]:
    """The headline and its controls, if the ablation has been run."""
    for content in contents:
        if content["figure"] == "ablation":
            numbers = content["numbers"]
            source = f"From [ablation.json](../data/results/ablation.json), `{content['command']}`."
            return ["## Headline", size(numbers["setup"]), headline(numbers), source]
    return []


def anchor(title: str) -> str:
    """The fragment that Markdown renderers give a heading."""
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")


def main(options: ResultsPage) -> None:
    """Takes what is new and writes the page."""
    if options.take is not None:
        take(options.take, options)
    if options.rewrite:
        rewrite(options)
    found = sorted(options.results.glob("*.json"))
    judged = {name: options.paper / f"data/{name_of}.json" for name, name_of in ALGORITHMS.items()}
    clusters = {name: read_json(path) for name, path in judged.items() if path.exists()}
    target = options.paper / "pages" / "results.md"
    write_text(target, page([read_json(path) for path in found], clusters))
    print(target)


if __name__ == "__main__":
    main(tyro.cli(ResultsPage))
