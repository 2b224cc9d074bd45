"""Figures of `crossproof attribute`: the bound step by step, and what longer proofs certify."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from crossproof.proof.attribution.figures import AttributedRun, ReplacementFigures, mean_of
from crossproof.proof.attribution.replacements import CENTRED
from crossproof.proof.attribution.result import AttributionResult
from crossproof.report.attribution import REFERENCES, of_runs
from crossproof.report.plots import Panel, error_bar, plain_figure
from crossproof.report.runs import ShownRun, of_page
from crossproof.tables import Estimate, at_most, number

Entries = Sequence[tuple[ShownRun, AttributedRun]]
Variants = Mapping[str, ReplacementFigures]
CLAIM = "claimed loss"
MEASURED_AFTER = ("base", "attention error", "attention consistency", "MLP consistency")
"""Parts after which the ball is around a hookpoint, so that the true distance is known."""
TALLEST = 900
"""Pixels."""
MARGIN = 1.4
"""Rows between the outer steps and the frame."""


def chain_panels(result: AttributionResult | None, runs: Sequence[ShownRun]) -> list[Panel]:
    """The bound on the loss and the radius after each step; empty without chains."""
    shown = of_runs(result, runs)
    if shown is None or (name := shown.best_chain) is None:
        return []
    entries = of_page(shown.chained, runs)
    return [_loss_panel(entries, name), _radius_panel(entries, name)]


def certified_panels(result: AttributionResult | None, runs: Sequence[ShownRun]) -> list[Panel]:
    """Certified and true shares of unchanged predictions against the proof's length."""
    shown = of_runs(result, runs)
    if shown is None:
        return []
    entries = of_page(shown.runs, runs)
    terms = [
        figures.terms
        for _, run in entries
        for variants in run.last_block.values()
        for variant, figures in variants.items()
        if variant.startswith("keep ")
    ]
    return [
        _certified_panel(entries, reference, (min(terms), max(terms)))
        for reference in REFERENCES
        if any(run.last_block.get(reference) for _, run in entries)
    ]


def _loss_panel(entries: Entries, name: str) -> Panel:
    steps = _steps(entries[0][1], name)
    figure = _downward(steps)
    ends = []
    for at, (run, figures) in enumerate(entries):
        assert figures.loss is not None  # every run with chains has losses
        bounds = [mean_of(stage.loss_bound) for stage in figures.chains[name].stages]
        values = [mean_of(figures.loss.claimed), *bounds]
        _add_steps(figure, run, at, values, steps, "%{y}: %{x:.3f} nats")
        ends.append(f"{run.name} ends at {at_most(2)(values[-1])} nats")
    first = entries[0][1]
    assert first.loss is not None
    limit, truth = first.vacuous_from, mean_of(first.loss.true)
    bottom = len(steps) - 1
    _add_line(figure, limit, f"vacuous from {limit:.2f}", "dash", (-MARGIN, bottom + 0.5))
    _add_line(figure, truth, f"the model’s own, {truth:.2f}", "dot", (bottom + MARGIN, -0.5))
    drawn = [value for trace in figure.data for value in trace.x if value]
    _log_axis(figure, [limit, truth, *drawn], "nats")
    told = f"Bound on the loss after each step: {'; '.join(ends)}; vacuous from {limit:.2f}."
    return Panel("Bound on the loss", told, figure)


def _radius_panel(entries: Entries, name: str) -> Panel:
    steps = _steps(entries[0][1], name)
    figure = _downward(steps)
    ends = []
    for at, (run, figures) in enumerate(entries):
        stages = figures.chains[name].stages
        values = [None, *(_positive(stage.radius) for stage in stages)]
        _add_steps(figure, run, at, values, steps, "%{y}: radius %{x:,.2f}")
        figure.add_scatter(
            x=[_positive(value) for value in figures.true_radius],
            y=[stage.short for stage in stages if stage.part in MEASURED_AFTER],
            mode="markers",
            marker={"size": 9 - 3 * (at % 2), "symbol": "circle-open", "color": run.colour},
            name=run.name,
            hovertemplate="%{y}: in truth %{x:,.2f}<extra>%{fullData.name}</extra>",
        )
        radius, truth = at_most(2)(stages[-1].radius), number(figures.true_radius[-1])
        ends.append(f"{run.name} ends at {radius}, in truth {truth}")
    _log_axis(figure, [v for trace in figure.data for v in trace.x if v], "length")
    return Panel("Radius of the ball", f"Radius after each step: {'; '.join(ends)}.", figure)


def _steps(figures: AttributedRun, name: str) -> list[str]:
    return [CLAIM, *(stage.short for stage in figures.chains[name].stages)]


def _downward(steps: Sequence[str]) -> go.Figure:
    """An empty figure with a row a step, in forward order from the top; many rows are denser.

    Above and below is room for the words that belong to vertical lines.
    """
    height = min(110 + 20 * len(steps), TALLEST)
    figure = plain_figure(height, hovermode="closest")
    order = {"categoryorder": "array", "categoryarray": list(steps)}
    figure.update_yaxes(
        type="category", range=[len(steps) - 1 + MARGIN, -MARGIN], automargin=True, **order
    )
    return figure


def _add_steps(
    figure: go.Figure,
    run: ShownRun,
    rank: int,
    values: Sequence[Any],
    steps: Sequence[str],
    hover: str,
) -> None:
    """One run's line; later ones are thinner, so that a line beneath shows where they agree."""
    size = 9 - 3 * (rank % 2)
    figure.add_scatter(
        x=list(values),
        y=list(steps),
        mode="lines+markers",
        line={"width": 4 - 2 * (rank % 2), "color": run.colour},
        marker={"size": size, "color": run.colour},
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


def _certified_panel(entries: Entries, reference: str, terms: tuple[float, float]) -> Panel:
    figure = plain_figure(380, hovermode="closest")
    words = []
    every = [figures.last_block.get(reference, {}) for _, figures in entries]
    for (run, _), variants in zip(entries, every, strict=True):
        kept = {name: f for name, f in variants.items() if name.startswith("keep ")}
        plain = {name: f for name, f in kept.items() if not name.endswith(CENTRED)}
        centred = {name: f for name, f in kept.items() if name.endswith(CENTRED)}
        truth = [variant.unchanged.mean for variant in plain.values()]
        _add_shares(
            figure, run, plain, [Estimate(mean) for mean in truth],
            {"width": 1}, {"size": 7, "symbol": "circle-open"}, "%{y:.1%} truly stay",
        )  # fmt: skip
        for some, dash, symbol, size in (
            (plain, "dot", "diamond", 6),
            (centred, "solid", "circle", 8),
        ):
            _add_shares(
                figure, run, some, [variant.certified for variant in some.values()],
                {"width": 2, "dash": dash}, {"symbol": symbol, "size": size},
                "%{y:.1%} of %{x:,.0f} pairs",
            )  # fmt: skip
        shares = [mean_of(variant.certified) for variant in variants.values()]
        if shares:
            words.append(f"{run.name} {min(shares):.1%} to {max(shares):.1%}")
    _add_names(figure, every)
    figure.update_yaxes(range=[-0.02, 1.08], tickformat=".0%", nticks=6, automargin=True)
    _log_axis(figure, terms, "pairs through the nonlinearity, a token")
    title = REFERENCES[reference]
    told = f"Certified shares, {title[0].lower() + title[1:]}: {'; '.join(words)}."
    return Panel(title, told, figure)


def _add_names(figure: go.Figure, every: Sequence[Variants]) -> None:
    """How many contributions are kept, above the highest true share of any run."""
    names = [n for n in every[0] if n.startswith("keep ") and not n.endswith(CENTRED)]
    rows = [[variants[name] for variants in every if name in variants] for name in names]
    figure.add_scatter(
        x=[row[0].terms for row in rows],
        y=[max(mean_of(variant.unchanged) for variant in row) + 0.015 for row in rows],
        text=[name.removeprefix("keep ") for name in names],
        mode="text",
        textposition="top center",
        textfont={"size": 11, "color": "var(--soft)"},
        hoverinfo="skip",
    )


def _add_shares(
    figure: go.Figure,
    run: ShownRun,
    variants: Variants,
    shares: Sequence[Estimate],
    line: dict[str, Any],
    marker: dict[str, Any],
    hover: str,
) -> None:
    """A run's shares of predictions against the proof's length, with their intervals."""
    figure.add_scatter(
        x=[variant.terms for variant in variants.values()],
        y=[share.value for share in shares],
        customdata=list(variants),
        mode="lines+markers",
        line=line | {"color": run.colour},
        marker=marker | {"color": run.colour},
        error_y=error_bar(shares, run.colour),
        name=run.name,
        hovertemplate=f"%{{customdata}}: {hover}<extra>%{{fullData.name}}</extra>",
    )


def _positive(value: float) -> float | None:
    """What a logarithmic axis can show."""
    return value if value > 0 else None
