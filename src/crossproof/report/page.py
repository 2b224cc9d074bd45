"""Writes the page: one HTML file that needs nothing else, neither network nor other files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

from crossproof.clusters.result import ClusterResult
from crossproof.evaluation.attention import HeadExample
from crossproof.evaluation.measurement import RunMeasurement
from crossproof.evaluation.results import (
    MID_LABELS,
    SCHEME_LABELS,
    RunEvaluation,
    massive_tables,
    result_tables,
)
from crossproof.files import write_text
from crossproof.proof.attribution.result import AttributionResult
from crossproof.report import attention, figures
from crossproof.report.attribution import attribution_section
from crossproof.report.attribution_figures import certified_panels, chain_panels
from crossproof.report.clusters import cluster_matrices, clustered_runs, size_figure
from crossproof.report.matrix_plot import heat_map
from crossproof.report.origin import command, facts
from crossproof.report.pairs import measured_runs
from crossproof.report.passages import passages
from crossproof.report.runs import ShownRun, mids_of, runs_of
from crossproof.report.words import summarise
from crossproof.tables import Row, Table, cell


@dataclass(frozen=True)
class Plot:
    """A figure's place in the page."""

    id: str
    title: str
    description: str
    """What a reader who cannot see the figure is told."""
    height: int


def write_report(
    folder: Path,
    results: RunEvaluation,
    published: Mapping[str, Any] | None = None,
    measured: RunMeasurement | None = None,
    clusters: ClusterResult | None = None,
    attribution: AttributionResult | None = None,
) -> Path:
    """Writes `folder`/report.html about an evaluation, and returns its path.

    `published` is a sweep to draw behind the trade-off:
    {"points": [{"objective", "strength", "seed", "phi_keep", "phi_none", "fvu"}, ...], "note"}.
    `measured`, `clusters` and `attribution` are about the same runs. Raises CrossproofError if the
    page cannot be written.
    """
    runs = runs_of(results)
    points = list(published["points"]) if published else []
    drawn = _drawn(runs, points) | {"matrices": _matrices(runs, measured)}
    heads = attention.examples(measured, runs)
    drawn |= _clusters(runs, clusters) | _attention(heads) | _attribution(runs, attribution)
    page = page_template("report.html.jinja").render(
        summary=summarise(results, runs),
        model=results.model,
        runs=runs,
        groups=result_tables({run.name: run.figures for run in runs}),
        mids={mid: MID_LABELS[mid] for mid in mids_of(runs)},
        plots={name: [plot for plot, _ in entries] for name, entries in drawn.items()},
        objectives=[
            (name, figures.MARKS[place % len(figures.MARKS)], figures.published_colour(place))
            for place, name in enumerate(figures.objectives_of(points))
        ],
        note=str(published.get("note", "")) if published else "",
        details=_details(runs),
        massive=massive_tables(results.runs),
        passages={run.name: passages(run.figures.latents or ()) for run in runs},
        measured=measured_runs(measured, runs),
        heads={name: attention.caption(example) for name, example in heads.items()},
        scores=attention.tables(measured, heads),
        attributed=attribution_section(attribution, runs),
        clustered=clustered_runs(clusters, runs),
        facts=facts(results),
        command=command(results),
        figures=_embedded([entry for entries in drawn.values() for entry in entries]),
        plotly=get_plotlyjs(),
    )
    return write_page(folder / "report.html", page)


def _drawn(
    runs: Sequence[ShownRun], points: figures.Points
) -> dict[str, list[tuple[Plot, go.Figure]]]:
    """Figures by section; a section without data is empty."""
    mean = [run for run in runs if run.figures.fidelity("none") is not None]
    blocks = sorted({block for run in runs for block in run.figures.blocks})
    shares = [run for run in runs if run.figures.share_histogram]
    hookpoints = [run for run in runs if run.figures.by_hookpoint.get("fvu")]
    found: dict[str, list[tuple[Plot, go.Figure]]] = {
        name: [] for name in ("trade_off", "mean", "blocks", "shares", "fvu")
    }
    if len(mean) > 1 or (mean and points):
        found["trade_off"] = [_plot("trade-off", "", _told(mean), figures.trade_off(runs, points))]
    if mean:
        found["mean"] = [_plot("fidelity", "", _told(mean), figures.fidelity_mean(mean))]
        found["blocks"] = [
            _plot(f"fidelity-{b}", f"Block {b}", _told(mean, b), figures.fidelity_block(mean, b))
            for b in blocks
        ]
    if shares:
        told = "Distribution of the dominant share; its mean is in the table."
        found["shares"] = [
            _plot(f"share-{b}", f"Block {b}", told, figures.share_block(shares, b)) for b in blocks
        ]
    if hookpoints:
        told = "FVU at each hookpoint; the numbers are in the last table."
        found["fvu"] = [_plot("fvu", "", told, figures.fvu_hookpoints(hookpoints))]
    return found


def _matrices(
    runs: Sequence[ShownRun], measured: RunMeasurement | None
) -> list[tuple[Plot, go.Figure]]:
    """The interaction matrix of each measured run's strongest latents."""
    results = {} if measured is None else measured.runs
    entries = []
    for run in runs:
        if run.name in results and results[run.name].matrix.latents:
            matrix = results[run.name].matrix
            names = [str(latent) for latent in matrix.latents]
            figure = heat_map(names, matrix.I, f"var({run.colour})", "var(--card)")
            told = f"Interaction of the {len(names)} latents that interact most, {run.name}."
            entries.append(_plot(f"matrix-{run.place}", run.name, told, figure))
    return entries


def _attention(heads: Mapping[str, HeadExample]) -> dict[str, list[tuple[Plot, go.Figure]]]:
    """Each run's example of a head: parts of its scores, and the latents of a query and a key."""
    found: dict[str, list[tuple[Plot, go.Figure]]] = {}
    for at, (name, example) in enumerate(heads.items()):
        found[f"pattern-{name}"] = [
            _plot(f"pattern-{at}-{place}", title, f"{told} Run {name}.", figure)
            for place, (title, told, figure) in enumerate(
                attention.pattern_panels(example, "var(--card)")
            )
        ]
        title, told, figure = attention.pair_panel(example, "var(--card)")
        found[f"latents-{name}"] = [_plot(f"head-{at}", title, f"{told} Run {name}.", figure)]
    return found


def _clusters(
    runs: Sequence[ShownRun], content: ClusterResult | None
) -> dict[str, list[tuple[Plot, go.Figure]]]:
    """Accuracy against cluster size, and the matrix of each run's first clusters."""
    sizes = size_figure(content, runs)
    told = "How often the judge is right, against the size of clusters."
    return {
        "cluster_sizes": [] if sizes is None else [_plot("cluster-sizes", "", told, sizes)],
        "clusters": [
            _plot(f"clusters-{run.place}", run.name, words, figure)
            for run, words, figure in cluster_matrices(content, runs)
        ],
    }


def _attribution(
    runs: Sequence[ShownRun], content: AttributionResult | None
) -> dict[str, list[tuple[Plot, go.Figure]]]:
    """The bound step by step, and certified shares of the last block against the proof's length."""
    drawn = {"chain": chain_panels(content, runs), "certified": certified_panels(content, runs)}
    return {
        name: [
            _plot(f"{name}-{place}", title, told, figure)
            for place, (title, told, figure) in enumerate(panels)
        ]
        for name, panels in drawn.items()
    }


def _plot(name: str, title: str, told: str, figure: go.Figure) -> tuple[Plot, go.Figure]:
    return Plot(f"plot-{name}", title, told, int(figure.layout.height)), figure


def _told(runs: Sequence[ShownRun], block: int | None = None) -> str:
    """The fidelities of a figure in words."""
    texts = []
    for run in runs:
        if block is not None and block not in run.figures.blocks:
            continue
        at = None if block is None else run.figures.blocks.index(block)
        found = {s: run.figures.fidelity(s) for s in SCHEME_LABELS}
        shown = ", ".join(
            f"{SCHEME_LABELS[s]} {cell(v.mean if at is None else v.by_block[at])}"
            for s, v in found.items()
            if v is not None
        )
        texts.append(f"{run.name}: {shown}")
    return f"Φ. {'; '.join(texts)}."


def _details(runs: Sequence[ShownRun]) -> list[Table]:
    """Tables of the figures at each hookpoint."""
    labels = {"fvu": "FVU", "fvu_without_outliers": "FVU without outliers"}
    labels |= {"ce_recovered": "CE recovered", "kl_recovered": "KL recovered"}
    columns = {
        f"{label}, {run.name}": run.figures.by_hookpoint[key]
        for key, label in labels.items()
        for run in runs
        if run.figures.by_hookpoint.get(key)
    }
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = tuple(
        Row(name, tuple(values.get(name) for values in columns.values())) for name in names
    )
    return [Table("", tuple(columns), rows, corner="Hookpoint")] if rows else []


def _embedded(entries: Sequence[tuple[Plot, go.Figure]]) -> str:
    """All figures as one JSON object that cannot end the script element it stands in."""
    parts = [f'"{plot.id}": {figure.to_json()}' for plot, figure in entries]
    text = "{" + ", ".join(parts) + "}"
    return text.replace("<", "\\u003c")


def page_template(name: str) -> Template:
    """A template of this package; what it is given is escaped."""
    loader = PackageLoader("crossproof.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(name)


def write_page(path: Path, page: str) -> Path:
    """Writes the page, complete or not at all; CrossproofError if it cannot."""
    write_text(path, page)
    return path
