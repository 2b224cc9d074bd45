"""Figures of `crossproof attribute`: the bound step by step, and what longer proofs certify."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from crossproof.proof.attribution.reading import best_chain, short_step, vacuous_from
from crossproof.proof.attribution.stream import CENTRED
from crossproof.report.attribution import REFERENCES
from crossproof.report.figures import plain_figure
from crossproof.report.runs import Run
from crossproof.tables import number

Panel = tuple[str, str, go.Figure]
"""Title, what a reader who cannot see the figure is told, and the figure."""
Entries = Sequence[tuple[Run, Mapping[str, Any]]]
CLAIM = "claimed loss"
MEASURED_AFTER = ("base", "attention error", "attention consistency", "MLP consistency")
"""Parts after which the ball is around a hookpoint, so that the true distance is known."""
TALLEST = 900
"""Pixels."""
MARGIN = 1.4
"""Rows between the outer steps and the frame."""


def chain_panels(content: Mapping[str, Any] | None, runs: Sequence[Run]) -> list[Panel]:
    """The bound on the loss and the radius after each step; empty without chains."""
    found = [(run, figures) for run, figures in _entries(content, runs) if "chains" in figures]
    chain = best_chain(figures for _, figures in found)
    if chain is None:
        return []
    return [_loss_panel(found, chain), _radius_panel(found, chain)]


def certified_panels(content: Mapping[str, Any] | None, runs: Sequence[Run]) -> list[Panel]:
    """Certified and true shares of unchanged predictions against the proof's length."""
    found = _entries(content, runs)
    terms = [
        float(figures["terms"])
        for _, run in found
        for variants in run["last_block"].values()
        for variant, figures in variants.items()
        if variant.startswith("keep ")
    ]
    return [
        _certified_panel(found, reference, (min(terms), max(terms)))
        for reference in REFERENCES
        if any(run["last_block"].get(reference) for _, run in found)
    ]


def _entries(content: Mapping[str, Any] | None, runs: Sequence[Run]) -> Entries:
    found = (content or {"runs": {}})["runs"]
    return [(run, found[run.name]) for run in runs if run.name in found]


def _loss_panel(found: Entries, chain: str) -> Panel:
    steps = _steps(found[0][1], chain)
    figure = _downward(steps)
    ends = []
    for place, (run, figures) in enumerate(found):
        stages = figures["chains"][chain]["stages"]
        values = [figures["loss"]["claimed"]["mean"], *(s["loss_bound"]["mean"] for s in stages)]
        _add_steps(figure, run, place, values, steps, "%{y}: %{x:.3f} nats")
        ends.append(f"{run.name} ends at {number(values[-1])} nats")
    first = found[0][1]
    limit, truth = vacuous_from(first), first["loss"]["true"]["mean"]
    bottom = len(steps) - 1
    _add_line(figure, limit, f"vacuous from {limit:.2f}", "dash", (-MARGIN, bottom + 0.5))
    _add_line(figure, truth, f"the model’s own, {truth:.2f}", "dot", (bottom + MARGIN, -0.5))
    drawn = [value for trace in figure.data for value in trace.x if value]
    _log_axis(figure, [limit, truth, *drawn], "nats")
    told = f"Bound on the loss after each step: {'; '.join(ends)}; vacuous from {limit:.2f}."
    return "Bound on the loss", told, figure


def _radius_panel(found: Entries, chain: str) -> Panel:
    steps = _steps(found[0][1], chain)
    figure = _downward(steps)
    ends = []
    for place, (run, figures) in enumerate(found):
        stages = figures["chains"][chain]["stages"]
        values = [None, *(_positive(stage["radius"]) for stage in stages)]
        _add_steps(figure, run, place, values, steps, "%{y}: radius %{x:,.2f}")
        places = [short_step(s["stage"]) for s in stages if s["part"] in MEASURED_AFTER]
        figure.add_scatter(
            x=[_positive(value) for value in figures["true_radius"]],
            y=places,
            mode="markers",
            marker={"size": 9 - 3 * (place % 2), "symbol": "circle-open", **_colour(run)},
            name=run.name,
            hovertemplate="%{y}: in truth %{x:,.2f}<extra>%{fullData.name}</extra>",
        )
        truth = figures["true_radius"][-1]
        ends.append(f"{run.name} ends at {number(stages[-1]['radius'])}, in truth {number(truth)}")
    _log_axis(figure, [v for trace in figure.data for v in trace.x if v], "length")
    return "Radius of the ball", f"Radius after each step: {'; '.join(ends)}.", figure


def _steps(figures: Mapping[str, Any], chain: str) -> list[str]:
    return [CLAIM, *(short_step(s["stage"]) for s in figures["chains"][chain]["stages"])]


def _downward(steps: Sequence[str]) -> go.Figure:
    """An empty figure with a row a step, in forward order from the top; many rows are denser.

    Above and below is room for the words that belong to vertical lines.
    """
    height = min(110 + 20 * len(steps), TALLEST)
    figure = plain_figure(height=height, showlegend=False, hovermode="closest")
    order = {"categoryorder": "array", "categoryarray": list(steps)}
    figure.update_yaxes(
        type="category", range=[len(steps) - 1 + MARGIN, -MARGIN], automargin=True, **order
    )
    return figure


def _add_steps(
    figure: go.Figure, run: Run, place: int, values: Sequence[Any], steps: Sequence[str], hover: str
) -> None:
    """One run's line; later ones are thinner, so that a line beneath shows where they agree."""
    size = 9 - 3 * (place % 2)
    figure.add_scatter(
        x=list(values),
        y=list(steps),
        mode="lines+markers",
        line={"width": 4 - 2 * (place % 2), **_colour(run)},
        marker={"size": size, **_colour(run)},
        name=run.name,
        hovertemplate=f"{hover}<extra>%{{fullData.name}}</extra>",
    )


def _add_line(
    figure: go.Figure, value: float, text: str, dash: str, y: tuple[float, float]
) -> None:
    """A vertical line between two heights, its words to the right of the first."""
    below = y[0] > y[1]  # the axis points downwards
    figure.add_shape(
        type="line", x0=value, x1=value, y0=y[0], y1=y[1], layer="below",
        line={"color": "var(--axis)", "width": 1.5, "dash": dash},
        label={
            "text": text, "textposition": "start", "textangle": 0, "xanchor": "left",
            "yanchor": "bottom" if below else "top", "padding": 4,
            "font": {"size": 11.5, "color": "var(--soft)"},
        },
    )  # fmt: skip


def _log_axis(figure: go.Figure, values: Sequence[float], title: str) -> None:
    """A logarithmic axis about the positive values, with ticks at 1, 2, 5 or at decades."""
    shown = [value for value in values if value > 0] or [1.0]
    low, high = min(shown) / 1.3, max(shown) * 1.3
    firsts = (1, 2, 5) if math.log10(high / low) < 1.8 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = [t for d in decades for f in firsts if low <= (t := f * 10.0**d) <= high]
    figure.update_xaxes(
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickvals=ticks,
        ticktext=[f"{tick:,.10g}" for tick in ticks],
        title_text=title,
        automargin=True,
    )


def _certified_panel(found: Entries, reference: str, terms: tuple[float, float]) -> Panel:
    figure = plain_figure(height=380, showlegend=False, hovermode="closest")
    told = []
    for run, figures in found:
        variants = figures["last_block"].get(reference, {})
        kept = [name for name in variants if name.startswith("keep ")]
        plain = [name for name in kept if not name.endswith(CENTRED)]
        centred = [name for name in kept if name.endswith(CENTRED)]
        _add_truth(figure, run, [(n, variants[n]) for n in plain])
        styles = ((plain, "dot", "diamond", 6), (centred, "solid", "circle", 8))
        for names, dash, symbol, size in styles:
            own = [(name, variants[name]) for name in names]
            _add_shares(figure, run, own, dash, {"symbol": symbol, "size": size})
        told += list(_told(run, variants))
    _add_names(figure, [figures["last_block"].get(reference, {}) for _, figures in found])
    figure.update_yaxes(range=[-0.02, 1.08], tickformat=".0%", nticks=6, automargin=True)
    _log_axis(figure, terms, "pairs through the nonlinearity, a token")
    title = REFERENCES[reference]
    return title, f"Certified shares, {title[0].lower() + title[1:]}: {'; '.join(told)}.", figure


def _add_truth(figure: go.Figure, run: Run, rows: Sequence[tuple[str, Any]]) -> None:
    """How many predictions truly stay."""
    figure.add_scatter(
        x=[row["terms"] for _, row in rows],
        y=[row["unchanged"]["mean"] for _, row in rows],
        customdata=[name for name, _ in rows],
        mode="lines+markers",
        line={"width": 1, **_colour(run)},
        marker={"size": 7, "symbol": "circle-open", **_colour(run)},
        name=run.name,
        hovertemplate="%{customdata}: %{y:.1%} truly stay<extra>%{fullData.name}</extra>",
    )


def _add_names(figure: go.Figure, found: Sequence[Mapping[str, Any]]) -> None:
    """How many contributions are kept, above the highest true share of any run."""
    names = [n for n in found[0] if n.startswith("keep ") and not n.endswith(CENTRED)]
    rows = [[variants[name] for variants in found if name in variants] for name in names]
    figure.add_scatter(
        x=[row[0]["terms"] for row in rows],
        y=[max(entry["unchanged"]["mean"] for entry in row) + 0.015 for row in rows],
        text=[name.removeprefix("keep ") for name in names],
        mode="text",
        textposition="top center",
        textfont={"size": 11, "color": "var(--soft)"},
        hoverinfo="skip",
    )


def _add_shares(
    figure: go.Figure, run: Run, rows: Sequence[tuple[str, Any]], dash: str, marker: dict[str, Any]
) -> None:
    """Certified shares with their intervals."""
    shares = [row["certified"] for _, row in rows]
    figure.add_scatter(
        x=[row["terms"] for _, row in rows],
        y=[share["mean"] for share in shares],
        customdata=[name for name, _ in rows],
        mode="lines+markers",
        line={"width": 2, "dash": dash, **_colour(run)},
        marker=marker | _colour(run),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [share["ci"][1] - share["mean"] for share in shares],
            "arrayminus": [share["mean"] - share["ci"][0] for share in shares],
            "thickness": 1.2,
            "width": 3,
            **_colour(run),
        },
        name=run.name,
        hovertemplate="%{customdata}: %{y:.1%} of %{x:,.0f} pairs<extra>%{fullData.name}</extra>",
    )


def _told(run: Run, variants: Mapping[str, Any]) -> Iterator[str]:
    shares = [row["certified"]["mean"] for row in variants.values()]
    if shares:
        yield f"{run.name} {min(shares):.1%} to {max(shares):.1%}"


def _positive(value: float) -> float | None:
    """What a logarithmic axis can show."""
    return value if value > 0 else None


def _colour(run: Run) -> dict[str, str]:
    return {"color": f"var({run.colour})"}
