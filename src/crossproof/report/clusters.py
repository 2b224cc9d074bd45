"""What `crossproof cluster` found: cards for the template, figures for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from crossproof.clusters.result import (
    Accuracy,
    ClusterMember,
    ClusterResult,
    LatentCluster,
)
from crossproof.clusters.settings import CHANCE
from crossproof.clusters.task import SIZES
from crossproof.evaluation.naming import latent_name
from crossproof.report.plots import Panel, error_bar, heat_map, plain_figure
from crossproof.report.runs import ShownRun, of_page
from crossproof.tables import Estimate, Table, number

SHOWN = 4
"""Clusters of a run, as cards."""


@dataclass(frozen=True)
class ClusterCard:
    """One cluster with a few of its members."""

    title: str
    figures: str
    members: tuple[ClusterMember, ...]
    others: str
    """Members that are not shown."""


@dataclass(frozen=True)
class ClusterSection:
    """The section's tables and clusters; runs are those of the page."""

    similarity: str
    material: str
    tables: list[Table]
    clusters: list[tuple[ShownRun, str, list[ClusterCard]]]
    """Each run with what was left out of it (or why it has no clusters) and its cards."""


def clustered_runs(result: ClusterResult | None, runs: Sequence[ShownRun]) -> ClusterSection | None:
    """The section's content, or None where no run of the page was clustered."""
    shown = [] if result is None else of_page(result.runs, runs)
    if result is None or not shown:
        return None
    ours = replace(result, runs={run.name: clustered for run, clustered in shown})
    cards = [
        (run, clustered.note, [_card(c) for c in clustered.clusters[:SHOWN] if c.members])
        for run, clustered in shown
    ]
    without = [(run, reason, list[ClusterCard]()) for run, reason in of_page(result.skipped, runs)]
    similarity, material = result.settings.similarity, result.settings.material
    return ClusterSection(similarity, material, ours.judgements(), cards + without)


def cluster_panels(result: ClusterResult | None, runs: Sequence[ShownRun]) -> list[Panel]:
    """Interaction between members of each run's first clusters, side by side and framed."""
    panels = []
    for run, clustered in [] if result is None else of_page(result.runs, runs):
        square, start = clustered.matrix, 0
        if not square.latents:
            continue
        figure = interaction_square(square.latents, square.I, run)
        for size in square.sizes:
            ends = {"x0": start - 0.5, "x1": start + size - 0.5}
            ends |= {"y0": start - 0.5, "y1": start + size - 0.5}
            figure.add_shape(type="rect", line={"color": "var(--axis)", "width": 1.5}, **ends)
            start += size
        latents, clusters = len(square.latents), len(square.sizes)
        told = f"Interaction of {latents} latents in {clusters} clusters, {run.name}."
        panels.append(Panel(run.name, told, figure))
    return panels


def interaction_square(
    latents: Sequence[int],
    values: Sequence[Sequence[float]],
    run: ShownRun,
    dictionaries: Mapping[str, int] | None = None,
) -> go.Figure:
    """I between some latents of a run; the row is the dominant latent."""
    names = [latent_name(latent, dictionaries or {}) for latent in latents]
    colours = ("var(--card)", run.colour)
    return heat_map(names, names, values, colours, "%{y} dominant, %{x} beside it")


def size_panels(result: ClusterResult | None, runs: Sequence[ShownRun]) -> list[Panel]:
    """Accuracy against cluster size, by the judge that was asked for; hollow marks are random
    clusters matched in frequency. Empty where nothing was clustered."""
    figure = plain_figure(320)
    for run, clustered in [] if result is None else of_page(result.runs, runs):
        assert result is not None
        judge = list(clustered.accuracy)[-1]
        by_control = clustered.accuracy[judge][result.settings.similarity]
        _add_sizes(figure, run, "clusters", "circle", by_control["clusters"])
        matched = by_control["random, matched"]
        _add_sizes(figure, run, "random, same frequencies", "circle-open", matched)
    if not any(trace.x for trace in figure.data):
        return []
    figure.add_hline(y=CHANCE, line={"color": "var(--axis)", "dash": "dot", "width": 1.5})
    order = [size for _, _, size in SIZES]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    figure.update_xaxes(title_text="latents in the cluster", automargin=True)
    figure.update_yaxes(title_text="right one of five", range=[0, 1], automargin=True)
    figure.update_layout(scattermode="group")
    return [Panel("", "How often the judge is right, against the size of clusters.", figure)]


def _add_sizes(
    figure: go.Figure, run: ShownRun, what: str, symbol: str, accuracy: Accuracy
) -> None:
    rows = {
        row.sizes: Estimate(row.mean, row.ci) for row in accuracy.by_size if row.mean is not None
    }
    figure.add_scatter(
        x=list(rows),
        y=[row.value for row in rows.values()],
        error_y=error_bar(list(rows.values()), run.colour),
        mode="markers",
        marker={"size": 10, "symbol": symbol, "color": run.colour},
        name=f"{run.name}, {what}",
        hovertemplate="%{fullData.name}: %{y:.2f}<extra></extra>",
    )


def _card(cluster: LatentCluster) -> ClusterCard:
    figures = (
        f"interaction inside {number(cluster.per_token)} a token, {cluster.share:.1%} of all that "
        f"its members take part in; {cluster.by_block[cluster.block]:.0%} of it in block "
        f"{cluster.block}"
    )
    if cluster.neurons:
        first = cluster.neurons[0]
        figures += f", {first.share:.1%} in neuron {first.neuron} of block {first.block}"
    shown = {member.latent for member in cluster.members}
    rest = [str(latent) for latent in cluster.latents if latent not in shown]
    others = f"And {', '.join(rest[:20])}{' …' if len(rest) > 20 else ''}." if rest else ""
    members = tuple(cluster.members)
    return ClusterCard(f"{len(cluster.latents)} latents", figures, members, others)
