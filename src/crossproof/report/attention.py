"""One head's scores in parts and between two positions, from measure.json, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from crossproof.report.figures import plain_figure
from crossproof.report.runs import Run
from crossproof.report.table import number

PARTS = {
    "total": "Score",
    "constant": "Constant",
    "query": "Query latents",
    "key": "Key latents",
    "query_key": "Query × key latents",
    "residual": "Residual",
}
COLOURS = [[0, "#3b78b8"], [0.5, "var(--card)"], [1, "#c8503c"]]
"""Blue lowers a score, red raises it."""


def examples(measured: Mapping[str, Any] | None, runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The measured example of each run that has one."""
    found = {run.name: (measured or {"runs": {}})["runs"].get(run.name, {}) for run in runs}
    kept = {name: figures.get("attention", {}) for name, figures in found.items()}
    return {name: figures["example"] for name, figures in kept.items() if "example" in figures}


def caption(example: Mapping[str, Any]) -> str:
    """Which head and which text."""
    query, key = (
        f"“{_shown(example['tokens'][example[side]])}” (position {example[side]})"
        for side in ("query", "key")
    )
    return (
        f"block {example['block']}, head {example['head']}; query {query}, key {key}; the parts "
        f"sum to the model’s scores within {example['error']:.0e}"
    )


def pattern_panels(example: Mapping[str, Any]) -> list[tuple[str, str, go.Figure]]:
    """Title, description and figure of each part of the scores, each on its own scale."""
    labels = [f"{place} {_shown(text)}" for place, text in enumerate(example["tokens"])]
    found = []
    for part, label in PARTS.items():
        values = example["parts"][part]
        title = f"{label}, to ±{number(_largest(values))}"
        told = f"{label} of each query (row) and key (column)."
        found.append((title, told, _heat(values, labels, labels, ticks=False)))
    return found


def pair_panel(example: Mapping[str, Any]) -> tuple[str, str, go.Figure]:
    """What each pair of latents adds to the score of the example's query and key."""
    rows, columns = (
        [str(latent) for latent in example[f"{side}_latents"]] for side in ("query", "key")
    )
    figure = _heat(example["pairs"], rows, columns, ticks=True)
    title = f"Latents of query and key, to ±{number(_largest(example['pairs']))}"
    return title, "What each latent of the query (row) adds with each of the key (column).", figure


def _shown(token: str) -> str:
    return token.replace("\n", "↵").strip()


def _largest(values: Sequence[Sequence[float | None]]) -> float:
    return max((abs(v) for row in values for v in row if v is not None), default=0.0)


def _heat(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    ticks: bool,
) -> go.Figure:
    largest = _largest(values) or 1.0
    figure = plain_figure(height=300 if ticks else 230, showlegend=False)
    figure.add_heatmap(
        x=list(columns),
        y=list(rows),
        z=[list(row) for row in values],
        colorscale=COLOURS,
        zmin=-largest,
        zmax=largest,
        showscale=False,
        hoverongaps=False,
        hovertemplate="query %{y}, key %{x}: %{z:.3g}<extra></extra>",
    )
    style = {"type": "category", "showticklabels": ticks, "tickfont": {"size": 9}}
    style |= {"showgrid": False, "ticks": "outside" if ticks else ""}
    figure.update_xaxes(title_text="key", tickangle=-90, automargin=True, **style)
    figure.update_yaxes(title_text="query", autorange="reversed", automargin=True, **style)
    return figure
