"""The interaction matrix of a few latents as a figure, for the page and for notebooks."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.interactions.matrix import Form, Interactions, Normalisation
from crossproof.report.figures import plain_figure


def matrix_figure(
    interactions: Interactions,
    *,
    form: Form = "I",
    normalise: Normalisation = "mean",
    block: int | None = None,
    count: int = 24,
) -> go.Figure:
    """The `count` latents that interact most, rows dominant; one block, or all summed.

    Raises CrossproofError for a form or block that was not measured.
    """
    chosen = interactions.strongest(count, form=form, block=block)
    values = interactions.matrix(form, normalise=normalise, block=block)[chosen][:, chosen]
    return heat_map(chosen, values)


def heat_map(
    latents: Int[Tensor, " R"], values: Float[Tensor, "R R"], colour: str = "#0069b4"
) -> go.Figure:
    """A square of pairs; the row is the dominant latent."""
    names = [str(latent) for latent in latents.tolist()]
    return heat_map_of(names, values.tolist(), colour, "white")


def heat_map_of(
    names: Sequence[str], values: Sequence[Sequence[float]], colour: str, ground: str
) -> go.Figure:
    """The same from plain values; `colour` and `ground` may be custom properties of a page."""
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
