"""What `crossproof cluster` found: tables and cards for the template, figures for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go

from crossproof.clusters.result import Accuracy, ClusterMember, ClusterResult, LatentCluster
from crossproof.clusters.settings import CHANCE
from crossproof.clusters.task import SIZES
from crossproof.report.figures import plain_figure
from crossproof.report.matrix_plot import heat_map
from crossproof.report.passages import Piece, pieces
from crossproof.report.runs import ShownRun
from crossproof.report.stored import stored
from crossproof.tables import Cell, Table, cell, number

SHOWN = 4
"""Clusters of a run, as cards."""


@dataclass(frozen=True)
class MemberCard:
    """A latent of a cluster, in words and texts."""

    latent: int
    explanation: str
    partners: str
    contexts: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class ClusterCard:
    """One cluster with a few of its members."""

    title: str
    figures: str
    members: tuple[MemberCard, ...]
    others: str
    """Members that are not shown."""


@dataclass(frozen=True)
class ClusterSection:
    """The section's tables and clusters; runs are those of the page."""

    similarity: str
    material: str
    tables: tuple[tuple[Table, tuple[tuple[str, tuple[Cell, ...]], ...]], ...]
    """Each with its rows: a label, and a cell for every run of the page."""
    clusters: dict[str, list[ClusterCard]]
    notes: dict[str, str]
    """What was left out, by run; of runs without clusters, why."""


def clustered(folder: Path, weights_hash: str) -> ClusterResult | None:
    """The content of clusters.json of a run, if it is about these weights."""
    content = stored(folder / "clusters" / "clusters.json", weights_hash)
    return None if content is None else ClusterResult.from_json(content)


def clustered_runs(result: ClusterResult | None, runs: Sequence[ShownRun]) -> ClusterSection | None:
    """The section's content, or None where no run of the page was clustered."""
    if result is None or not any(run.name in result.runs for run in runs):
        return None
    names = [run.name for run in runs]
    return ClusterSection(
        result.settings.similarity,
        result.settings.material,
        tuple((table, tuple(_rows(table, names))) for table in result.judgements()),
        {
            name: [_card(c) for c in run.clusters[:SHOWN] if c.members]
            for name, run in result.runs.items()
            if name in names
        },
        {name: run.note for name, run in result.runs.items()} | result.skipped,
    )


def cluster_matrices(
    result: ClusterResult | None, runs: Sequence[ShownRun]
) -> list[tuple[ShownRun, str, go.Figure]]:
    """For each clustered run, what the picture shows in words, and the picture: interaction
    between members of the first clusters, who stand side by side and are framed."""
    entries = []
    for run in runs:
        if result is None or run.name not in result.runs:
            continue
        square = result.runs[run.name].matrix
        if not square.latents:
            continue
        names = [str(latent) for latent in square.latents]
        rows = [list(row) for row in square.I]
        figure = heat_map(names, rows, f"var({run.colour})", "var(--card)")
        start = 0
        for size in square.sizes:
            ends = {"x0": start - 0.5, "x1": start + size - 0.5}
            ends |= {"y0": start - 0.5, "y1": start + size - 0.5}
            figure.add_shape(type="rect", line={"color": "var(--axis)", "width": 1.5}, **ends)
            start += size
        told = f"Interaction of {len(names)} latents in {len(square.sizes)} clusters, {run.name}."
        entries.append((run, told, figure))
    return entries


def size_figure(result: ClusterResult | None, runs: Sequence[ShownRun]) -> go.Figure | None:
    """Accuracy against cluster size, by the judge that was asked for; hollow marks are random
    clusters matched in frequency. None where nothing was clustered."""
    figure = plain_figure(height=320, showlegend=False)
    for run in runs:
        if result is None or run.name not in result.runs:
            continue
        by_judge = result.runs[run.name].accuracy
        by_control = by_judge[list(by_judge)[-1]][result.settings.similarity]
        _add_sizes(figure, run, f"{run.name}, clusters", "circle", by_control["clusters"])
        matched = by_control["random, matched"]
        _add_sizes(figure, run, f"{run.name}, random, same frequencies", "circle-open", matched)
    if not any(trace.x for trace in figure.data):
        return None
    figure.add_hline(y=CHANCE, line={"color": "var(--axis)", "dash": "dot", "width": 1.5})
    order = [size for _, _, size in SIZES]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    figure.update_xaxes(title_text="latents in the cluster", automargin=True)
    figure.update_yaxes(title_text="right one of five", range=[0, 1], automargin=True)
    figure.update_layout(scattermode="group")
    return figure


def _add_sizes(
    figure: go.Figure, run: ShownRun, name: str, symbol: str, accuracy: Accuracy
) -> None:
    rows = [(row, row.mean) for row in accuracy.by_size if row.mean is not None]
    ends = [row.ci or (mean, mean) for row, mean in rows]
    figure.add_scatter(
        x=[row.sizes for row, _ in rows],
        y=[mean for _, mean in rows],
        error_y={
            "array": [high - mean for (_, high), (_, mean) in zip(ends, rows, strict=True)],
            "arrayminus": [mean - low for (low, _), (_, mean) in zip(ends, rows, strict=True)],
            "color": f"var({run.colour})",
            "thickness": 1.2,
        },
        mode="markers",
        marker={"size": 10, "symbol": symbol, "color": f"var({run.colour})"},
        name=name,
        hovertemplate="%{fullData.name}: %{y:.2f}<extra></extra>",
    )


def _rows(table: Table, names: Sequence[str]) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    """Rows of the table with a column for each name; a dash where the table has none."""
    for row in table.rows:
        cells = dict(zip(table.columns, row.cells, strict=True))
        yield row.label, tuple(cells.get(name, cell(None)) for name in names)


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
    rest = [latent for latent in cluster.latents if latent not in shown]
    others = (
        f"And {', '.join(map(str, rest[:20]))}{' …' if len(rest) > 20 else ''}." if rest else ""
    )
    members = tuple(map(_member_card, cluster.members))
    return ClusterCard(f"{len(cluster.latents)} latents", figures, members, others)


def _member_card(member: ClusterMember) -> MemberCard:
    largest = max((a for c in member.contexts for a in c.activations), default=0.0)
    return MemberCard(
        member.latent,
        member.explanation.text,
        ", ".join(f"{p.latent} ({number(p.per_token)})" for p in member.partners),
        tuple(tuple(pieces(context, largest)) for context in member.contexts),
    )
