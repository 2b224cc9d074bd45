"""Writes the page: one HTML file that needs nothing else, neither network nor other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from plotly.offline import get_plotlyjs

from crossproof.clusters.result import ClusterResult
from crossproof.evaluation.attention import HeadExample
from crossproof.evaluation.measurement import (
    MeasurementResult,
    RunMeasurement,
    pairs_table,
    totals_table,
)
from crossproof.evaluation.naming import abbreviated, latent_name
from crossproof.evaluation.results import KEPT, RunEvaluation, massive_tables, result_tables
from crossproof.files import write_text
from crossproof.proof.attribution.result import AttributionResult
from crossproof.report.attention import caption, pair_panel, pattern_panels
from crossproof.report.attribution import attribution_section
from crossproof.report.attribution_figures import certified_panels, chain_panels
from crossproof.report.clusters import (
    cluster_panels,
    clustered_runs,
    interaction_square,
    size_panels,
)
from crossproof.report.figures import (
    fidelity_panels,
    fvu_panels,
    keep_panels,
    mids,
    share_panels,
)
from crossproof.report.marked import marked
from crossproof.report.origin import command, facts
from crossproof.report.plots import Panel
from crossproof.report.runs import ShownRun, of_page, runs_of
from crossproof.report.trade_off import MARKS, Points, published_legend, trade_off_panels
from crossproof.report.words import summarise
from crossproof.tables import Row, Table, number

Measured = Sequence[tuple[ShownRun, MeasurementResult]]
Plots = dict[str, list[Panel]]
"""By the part of the page; the n-th is drawn into the element plot-PART-n."""


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
    pairs = [] if measured is None else of_page(measured.runs, runs)
    plots = _plots(runs, points, pairs, clusters, attribution)
    ratios = {} if measured is None else measured.ratios
    tables = result_tables({run.name: run.figures for run in runs})
    page = page_template("report.html.jinja").render(
        summary=summarise(results, runs),
        model=results.model,
        runs=runs,
        groups=[table for table in tables if table.title != KEPT],
        kept=[table for table in tables if table.title == KEPT],
        mids=mids(runs),
        plots=plots,
        objectives=[(name, MARKS[mark], at) for name, mark, at in published_legend(points)],
        note=str(published.get("note", "")) if published else "",
        hookpoints=_hookpoints(runs),
        massive=massive_tables(results.runs),
        measured=[(run, result, pairs_table("", result)) for run, result in pairs],
        totals=_totals(pairs, ratios),
        heads=[
            (run, caption(example), *result.attention_tables())
            for run, result, example in _heads(pairs)
        ],
        attributed=attribution_section(attribution, runs),
        clustered=clustered_runs(clusters, runs),
        facts=facts(results),
        command=command(results),
        figures=_embedded(plots),
        plotly=get_plotlyjs(),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _plots(
    runs: Sequence[ShownRun],
    points: Points,
    measured: Measured,
    clusters: ClusterResult | None,
    attribution: AttributionResult | None,
) -> Plots:
    fidelity, blocks = fidelity_panels(runs)
    plots = {
        "trade-off": trade_off_panels(runs, points),
        "fidelity": fidelity,
        "block": blocks,
        "keep": keep_panels(runs),
        "share": share_panels(runs),
        "fvu": fvu_panels(runs),
        "matrix": _matrices(measured),
        "cluster-size": size_panels(clusters, runs),
        "cluster": cluster_panels(clusters, runs),
        "chain": chain_panels(attribution, runs),
        "certified": certified_panels(attribution, runs),
    }
    for run, _, example in _heads(measured):
        plots[f"pattern-{run.rank}"] = pattern_panels(example)
        plots[f"head-{run.rank}"] = [pair_panel(example)]
    return plots


def _matrices(measured: Measured) -> list[Panel]:
    """The interaction matrix of each measured run's strongest latents."""
    panels = []
    for run, result in measured:
        if latents := result.matrix.latents:
            told = f"Interaction of the {len(latents)} latents that interact most, {run.name}."
            names, _ = abbreviated(result.dictionaries, ())  # the table of pairs explains them
            square = interaction_square(latents, result.matrix.I, run, names)
            panels.append(Panel(run.name, told, square))
    return panels


def _totals(measured: Measured, ratios: Mapping[str, Any]) -> Table | None:
    results = {run.name: result for run, result in measured}
    shown = {name: totals for name, totals in ratios.items() if name in results}
    return totals_table(results, shown) if results else None


def _heads(measured: Measured) -> Iterator[tuple[ShownRun, MeasurementResult, HeadExample]]:
    """The runs with an example of an attention head."""
    for run, result in measured:
        if result.attention is not None and result.attention.example is not None:
            yield run, result, result.attention.example


def _hookpoints(runs: Sequence[ShownRun]) -> Table | None:
    """The figures at each hookpoint."""
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
    return Table("", tuple(columns), rows, corner="Hookpoint") if rows else None


def _embedded(plots: Plots) -> str:
    """All figures as one JSON object that cannot end the script element it stands in."""
    parts = [
        f'"plot-{name}-{at}": {panel.figure.to_json()}'
        for name, panels in plots.items()
        for at, panel in enumerate(panels)
    ]
    return "{" + ", ".join(parts).replace("<", "\\u003c") + "}"


def page_template(name: str) -> Template:
    """A template of this package; what it is given is escaped."""
    loader = PackageLoader("crossproof.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"marked": marked, "number": number, "named": latent_name}
    return environment.get_template(name)
