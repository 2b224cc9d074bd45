"""The interaction matrix of a few latents as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from crossproof.report.figures import plain_figure


def heat_map(
    names: Sequence[str], values: Sequence[Sequence[float]], colour: str, ground: str
) -> go.Figure:
    """A square of pairs; the row is the dominant latent.

    `colour` and `ground` may be custom properties of a page.
    """
    figure = plain_figure(height=380, showlegend=False)
    figure.add_heatmap(
        x=names,
        y=names,
        z=values,
        colorscale=[[0, ground], [1, colour]],
        showscale=False,
        hovertemplate="%{y} dominant, %{x} beside it: %{z:.3g}<extra></extra>",
    )
    figure.update_xaxes(type="category", tickfont={"size": 9}, tickangle=-90, automargin=True)
    figure.update_yaxes(
        type="category", tickfont={"size": 9}, autorange="reversed", automargin=True
    )
    return figure
