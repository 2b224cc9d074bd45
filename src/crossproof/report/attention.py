"""One head's scores in parts and between two positions."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from crossproof.evaluation.attention import LABELS, HeadExample, Rows
from crossproof.report.plots import Panel, heat_map
from crossproof.tables import number

COLOURS = ("#3b78b8", "var(--card)", "#c8503c")
"""Blue lowers a score, red raises it."""


def caption(example: HeadExample) -> str:
    """Which head and which text."""
    query, key = (
        f"“{_shown(example.tokens[at])}” (position {at})" for at in (example.query, example.key)
    )
    return (
        f"block {example.block}, head {example.head}; query {query}, key {key}; the parts sum to "
        f"the model’s scores within {example.error:.0e}"
    )


def pattern_panels(example: HeadExample) -> list[Panel]:
    """Each part of the scores, on its own scale."""
    labels = [f"{at} {_shown(text)}" for at, text in enumerate(example.tokens)]
    panels = []
    for part, label in LABELS.items():
        name, values = label[0].upper() + label[1:], example.parts[part]
        figure = _square(labels, labels, values, labels=False)
        told = f"{name} of each query (row) and key (column)."
        panels.append(Panel(f"{name}, to ±{number(_largest(values))}", told, figure))
    return panels


def pair_panel(example: HeadExample) -> Panel:
    """What each pair of latents adds to the score of the example's query and key."""
    rows, columns = (list(map(str, ids)) for ids in (example.query_latents, example.key_latents))
    told = "What each latent of the query (row) adds with each of the key (column)."
    title = f"Latents of query and key, to ±{number(_largest(example.pairs))}"
    return Panel(title, told, _square(rows, columns, example.pairs, labels=True))


def _square(rows: Sequence[str], columns: Sequence[str], values: Rows, labels: bool) -> go.Figure:
    figure = heat_map(
        rows, columns, values, COLOURS, "query %{y}, key %{x}",
        height=300 if labels else 230, largest=_largest(values) or 1.0, labels=labels,
    )  # fmt: skip
    figure.update_xaxes(title_text="key")
    figure.update_yaxes(title_text="query")
    return figure


def _shown(token: str) -> str:
    return token.replace("\n", "↵").strip()


def _largest(values: Rows) -> float:
    return max((abs(v) for row in values for v in row if v is not None), default=0.0)
