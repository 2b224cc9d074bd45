"""Figures of one head's scores before the softmax: its parts, and pairs of latents.

They stand on their own, with their own colours: blue lowers a score, red raises it.
"""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.interactions.attention import ScoreParts
from crossproof.interactions.attention_pairs import PairScores

PANELS = ("Score", "Constant", "Query latents", "Key latents", "Query × key latents", "Residual")


def pattern_figure(
    parts: ScoreParts, mask: Bool[Tensor, "B B"], tokens: Sequence[str] | None = None
) -> go.Figure:
    """A head's scores [query, key] and the parts that sum to them, on one scale.

    Keys that `mask` hides are left blank; `tokens` are the tokens' texts. Raises CrossproofError
    when their number is not the scores'.
    """
    labels = _token_labels(len(mask), tokens)
    shown = (
        parts.total,
        parts.constant,
        parts.query,
        parts.key,
        parts.query_key,
        parts.residual,
    )
    figure = make_subplots(
        2, 3, subplot_titles=PANELS, shared_xaxes=True, shared_yaxes=True, vertical_spacing=0.1
    )
    for place, (name, part) in enumerate(zip(PANELS, shown, strict=True)):
        seen = part.masked_fill(~mask, float("nan"))
        panel = _heatmap(seen, labels, labels, name, "query %{y}, key %{x}")
        figure.add_trace(panel, place // 3 + 1, place % 3 + 1)
    largest = max(float(part[mask].abs().max()) for part in shown) if mask.any() else 1.0
    figure.update_yaxes(title_text="query", col=1)
    figure.update_xaxes(title_text="key", row=2)
    return _styled(figure, largest, "score")


def pair_figure(
    pairs: PairScores, head: int, query_token: str | None = None, key_token: str | None = None
) -> go.Figure:
    """What each pair of latents adds to one head's score between two positions.

    Rows are the query's active latents, columns the key's. Raises CrossproofError for a head that
    is not there.
    """
    if not 0 <= head < len(pairs.values):
        raise CrossproofError(
            f"These pairs are of heads 0 to {len(pairs.values) - 1}; there is no head {head}."
        )
    values = pairs.values[head]
    rows, columns = (
        [str(i) for i in side.tolist()] for side in (pairs.query_latents, pairs.key_latents)
    )
    panel = _heatmap(values, rows, columns, f"head {head}", "query latent %{y}, key latent %{x}")
    figure = go.Figure(panel)
    figure.update_yaxes(title_text="query latent" + _at(query_token))
    figure.update_xaxes(title_text="key latent" + _at(key_token))
    return _styled(figure, float(values.abs().max()) if values.numel() else 1.0, "added to score")


def _heatmap(
    values: Float[Tensor, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    name: str,
    places: str,
) -> go.Heatmap:
    return go.Heatmap(
        z=values.detach().to("cpu", torch.float64).numpy(),
        y=list(rows),
        x=list(columns),
        name=name,
        coloraxis="coloraxis",
        hoverongaps=False,
        hovertemplate=f"{places}: %{{z:.4g}}<extra>{name}</extra>",
    )


def _styled(figure: go.Figure, largest: float, unit: str) -> go.Figure:
    """Queries from the top; zero in the middle of the colours."""
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(type="category")
    largest = largest or 1.0
    colours = {"colorscale": "RdBu_r", "cmin": -largest, "cmax": largest}
    figure.update_layout(
        template="plotly_white", coloraxis={**colours, "colorbar_title_text": unit}
    )
    return figure


def _token_labels(count: int, tokens: Sequence[str] | None) -> list[str]:
    """Position and text: equal texts must stay apart."""
    if tokens is None:
        return [str(place) for place in range(count)]
    if len(tokens) != count:
        raise CrossproofError(
            f"There are {len(tokens)} token texts for {count} positions; give one a position."
        )
    return [f"{place} {text}" for place, text in enumerate(tokens)]


def _at(token: str | None) -> str:
    return "" if token is None else f" at “{token}”"
