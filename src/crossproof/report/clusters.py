"""What `crossproof cluster` found, as plain values for the template and figures for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from crossproof.clusters.accuracy import SIZES
from crossproof.clusters.trials import CHANCE
from crossproof.evaluation.contexts import Context
from crossproof.report.figures import plain_figure
from crossproof.report.matrix_plot import heat_map_of
from crossproof.report.passages import Piece, pieces
from crossproof.report.runs import Run
from crossproof.report.stored import stored
from crossproof.tables import Cell, Estimate, cell, number

SHOWN = 4
NAMES = {"clusters": "", "random": "random clusters", "random, matched": "random, same frequencies"}
JUDGES = {"overlap": "word overlap", "embedding": "embedding model", "llm": "language model"}


@dataclass(frozen=True)
class ClusterRow:
    """One figure of every run, as shown."""

    label: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Member:
    """A latent of a cluster, in words and texts."""

    latent: int
    explanation: str
    partners: str
    contexts: tuple[tuple[Piece, ...], ...]


@dataclass(frozen=True)
class ShownCluster:
    """One cluster with a few of its members."""

    title: str
    figures: str
    members: tuple[Member, ...]
    others: str
    """Members that are not shown."""


@dataclass(frozen=True)
class ClusteredRuns:
    """The section's tables and clusters; runs are those of the page that were clustered."""

    similarity: str
    material: str
    rows: tuple[ClusterRow, ...]
    detection: tuple[ClusterRow, ...]
    clusters: dict[str, list[ShownCluster]]


def clustered(folder: Path, weights_hash: str) -> dict[str, Any] | None:
    """The content of clusters.json of a run, if it is about these weights."""
    return stored(folder / "clusters" / "clusters.json", weights_hash)


def clustered_runs(content: Mapping[str, Any] | None, runs: Sequence[Run]) -> ClusteredRuns | None:
    """The section's content, or None where nothing was clustered."""
    if content is None:
        return None
    found = [content["runs"].get(run.name) for run in runs]
    if not any(found):
        return None
    shown = {
        run.name: [_cluster(row) for row in figures["clusters"][:SHOWN] if "members" in row]
        for run, figures in zip(runs, found, strict=True)
        if figures is not None
    }
    settings = content["settings"]
    return ClusteredRuns(
        settings["similarity"],
        settings["material"],
        tuple(_accuracies(found)),
        tuple(_detections(found)),
        shown,
    )


def cluster_matrices(
    content: Mapping[str, Any] | None, runs: Sequence[Run]
) -> list[tuple[Run, str, go.Figure]]:
    """For each clustered run, what the picture shows in words, and the picture: interaction
    between members of the first clusters, who stand side by side and are framed."""
    entries = []
    for run in runs:
        figures = (content or {"runs": {}})["runs"].get(run.name)
        if figures is None or not figures["matrix"]["latents"]:
            continue
        matrix = figures["matrix"]
        names = [str(latent) for latent in matrix["latents"]]
        figure = heat_map_of(names, matrix["I"], f"var({run.colour})", "var(--card)")
        start = 0
        for size in matrix["sizes"]:
            ends = {"x0": start - 0.5, "x1": start + size - 0.5}
            ends |= {"y0": start - 0.5, "y1": start + size - 0.5}
            figure.add_shape(type="rect", line={"color": "var(--axis)", "width": 1.5}, **ends)
            start += size
        told = (
            f"Interaction of {len(names)} latents in {len(matrix['sizes'])} clusters, {run.name}."
        )
        entries.append((run, told, figure))
    return entries


def size_figure(content: Mapping[str, Any] | None, runs: Sequence[Run]) -> go.Figure | None:
    """Accuracy against cluster size, the keenest judge's; hollow marks are random clusters matched
    in frequency. None where nothing was clustered."""
    figure = plain_figure(height=320, showlegend=False)
    drawn = False
    for run in runs:
        figures = (content or {"runs": {}})["runs"].get(run.name)
        if figures is None:
            continue
        judge = list(figures["accuracy"])[-1]
        by_control = next(iter(figures["accuracy"][judge].values()))
        for control, symbol in (("clusters", "circle"), ("random, matched", "circle-open")):
            rows = by_control[control]["by_size"]
            drawn = drawn or bool(rows)
            figure.add_scatter(
                x=[row["sizes"] for row in rows],
                y=[row["mean"] for row in rows],
                error_y={
                    "array": [_ends(row)[1] - row["mean"] for row in rows],
                    "arrayminus": [row["mean"] - _ends(row)[0] for row in rows],
                    "color": f"var({run.colour})",
                    "thickness": 1.2,
                },
                mode="markers",
                marker={"size": 10, "symbol": symbol, "color": f"var({run.colour})"},
                name=f"{run.name}, {NAMES[control] or 'clusters'}",
                hovertemplate="%{fullData.name}: %{y:.2f}<extra></extra>",
            )
    figure.add_hline(y=CHANCE, line={"color": "var(--axis)", "dash": "dot", "width": 1.5})
    order = [size for _, _, size in SIZES]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    figure.update_xaxes(title_text="latents in the cluster", automargin=True)
    figure.update_yaxes(title_text="right one of five", range=[0, 1], automargin=True)
    figure.update_layout(scattermode="group")
    return figure if drawn else None


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """The interval, or the figure twice where there is none."""
    low, high = row["ci"] or (row["mean"], row["mean"])
    return low, high


def _accuracies(found: Sequence[Mapping[str, Any] | None]) -> list[ClusterRow]:
    """One row a judge, similarity and control; controls of the first similarity only."""
    first = next(figures for figures in found if figures is not None)
    rows = []
    for judge, by_similarity in first["accuracy"].items():
        for place, (similarity, by_control) in enumerate(by_similarity.items()):
            for control in by_control:
                if place and control != "clusters":
                    continue
                cells = tuple(_accuracy(f, judge, similarity, control) for f in found)
                label = similarity if control == "clusters" else NAMES[control]
                rows.append(ClusterRow(label, f"judge: {JUDGES.get(judge, judge)}", cells))
    return rows


def _accuracy(figures: Mapping[str, Any] | None, judge: str, similarity: str, control: str) -> Cell:
    if figures is None:
        return cell(None)
    entry = figures["accuracy"].get(judge, {}).get(similarity, {}).get(control)
    return _value(entry)


def _detections(found: Sequence[Mapping[str, Any] | None]) -> list[ClusterRow]:
    first = next(figures for figures in found if figures is not None)
    rows = []
    for scorer in first["detection"]:
        for key in ("sensitivity", "specificity"):
            entries = [
                (f or {"detection": {}})["detection"].get(scorer, {}).get(key) for f in found
            ]
            note = f"decided by {JUDGES.get(scorer, scorer)}"
            rows.append(
                ClusterRow(key.capitalize(), note, tuple(_value(entry) for entry in entries))
            )
    return rows


def _value(entry: Mapping[str, Any] | None) -> Cell:
    if entry is None or entry.get("mean") is None:
        return cell(None)
    return cell(Estimate(entry["mean"], tuple(entry["ci"]) if entry["ci"] else None))


def _cluster(row: Mapping[str, Any]) -> ShownCluster:
    members = tuple(_member(entry) for entry in row["members"])
    block = max(row["by_block"], key=row["by_block"].get)
    figures = (
        f"interaction inside {number(row['per_token'])} a token, {row['share']:.1%} of all that "
        f"its members take part in; {row['by_block'][block]:.0%} of it in block {block}"
    )
    if row["neurons"]:
        first = row["neurons"][0]
        figures += f", {first['share']:.1%} in neuron {first['neuron']} of block {first['block']}"
    rest = [h for h in row["latents"] if h not in {m.latent for m in members}]
    count = len(row["latents"])
    others = (
        f"And {', '.join(map(str, rest[:20]))}{' …' if len(rest) > 20 else ''}." if rest else ""
    )
    return ShownCluster(f"{count} latents", figures, members, others)


def _member(entry: Mapping[str, Any]) -> Member:
    contexts = [
        Context(tuple(c["tokens"]), tuple(c["activations"]), c["peak"]) for c in entry["contexts"]
    ]
    largest = max((a for c in contexts for a in c.activations), default=0.0)
    partners = ", ".join(f"{p['latent']} ({number(p['per_token'])})" for p in entry["partners"])
    return Member(
        entry["latent"],
        entry["explanation"]["text"],
        partners,
        tuple(tuple(pieces(context, largest)) for context in contexts),
    )
