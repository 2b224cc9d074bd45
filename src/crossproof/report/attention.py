"""One head's scores in parts and between two positions, for the page and for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from crossproof.evaluation.attention import HeadExample
from crossproof.evaluation.measurement import RunMeasurement, attention_table
from crossproof.report.figures import plain_figure
from crossproof.report.runs import ShownRun
from crossproof.tables import Table, number

PARTS = {
    "total": "Score",
    "constant": "Constant",
    "query": "Query latents",
    "key": "Key latents",
    "query_key": "Query × key latents",
    "residual": "Residual",
}
PanelOfHead = tuple[str, str, go.Figure]
"""Title, description and figure."""


def examples(measured: RunMeasurement | None, runs: Sequence[ShownRun]) -> dict[str, HeadExample]:
    """The measured example of each run that has one."""
    results = {} if measured is None else measured.runs
    scores = {run.name: results[run.name].attention for run in runs if run.name in results}
    return {
        name: each.example
        for name, each in scores.items()
        if each is not None and each.example is not None
    }


def tables(measured: RunMeasurement | None, names: Iterable[str]) -> dict[str, Table]:
    """How much each part of the scores differs among keys, of the named runs."""
    scores = {name: measured.runs[name].attention for name in names} if measured else {}
    return {name: attention_table("", each) for name, each in scores.items() if each is not None}


def caption(example: HeadExample) -> str:
    """Which head and which text."""
    query, key = (
        f"“{_shown(example.tokens[at])}” (position {at})" for at in (example.query, example.key)
    )
    return (
        f"block {example.block}, head {example.head}; query {query}, key {key}; the parts sum to "
        f"the model’s scores within {example.error:.0e}"
    )


def pattern_panels(example: HeadExample, ground: str = "white") -> list[PanelOfHead]:
    """Each part of the scores, on its own scale: blue lowers a score, red raises it.

    `ground` is the colour of zero; a page may give a custom property.
    """
    labels = [f"{at} {_shown(text)}" for at, text in enumerate(example.tokens)]
    panels = []
    for part, label in PARTS.items():
        values = example.parts[part]
        title = f"{label}, to ±{number(_largest(values))}"
        told = f"{label} of each query (row) and key (column)."
        panels.append((title, told, _heat(values, labels, labels, False, ground)))
    return panels


def pair_panel(example: HeadExample, ground: str = "white") -> PanelOfHead:
    """What each pair of latents adds to the score of the example's query and key."""
    rows, columns = (list(map(str, ids)) for ids in (example.query_latents, example.key_latents))
    title = f"Latents of query and key, to ±{number(_largest(example.pairs))}"
    told = "What each latent of the query (row) adds with each of the key (column)."
    return title, told, _heat(example.pairs, rows, columns, True, ground)


def _shown(token: str) -> str:
    return token.replace("\n", "↵").strip()


def _largest(values: Sequence[Sequence[float | None]]) -> float:
    return max((abs(v) for row in values for v in row if v is not None), default=0.0)


def _heat(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    ticks: bool,
    ground: str,
) -> go.Figure:
    largest = _largest(values) or 1.0
    figure = plain_figure(height=300 if ticks else 230, showlegend=False)
    figure.add_heatmap(
        x=list(columns),
        y=list(rows),
        z=[list(row) for row in values],
        colorscale=[[0, "#3b78b8"], [0.5, ground], [1, "#c8503c"]],
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
