"""The figures of results.json: fidelities, dominant shares, FVU by hookpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import plotly.graph_objects as go

from crossproof.evaluation.results import MID_LABELS, SCHEME_LABELS, mids_of
from crossproof.report.plots import Panel, error_bar, plain_figure
from crossproof.report.runs import ShownRun
from crossproof.tables import Estimate, cell

LOWEST_PHI = -1.0
"""Axes of Φ stop here; a bar below it carries its number."""


def mids(runs: Sequence[ShownRun]) -> dict[str, str]:
    """The kinds of resid_mid for which any run has fidelities, with their labels."""
    return {mid: MID_LABELS[mid] for mid in mids_of([run.figures for run in runs])}


def fidelity_panels(runs: Sequence[ShownRun]) -> tuple[list[Panel], list[Panel]]:
    """Φ of every scheme: the mean over blocks with intervals, and a panel a block."""
    shown = [run for run in runs if run.figures.fidelity("none") is not None]
    if not shown:
        return [], []
    mean = _fidelity(shown, 90 + 5 * (14 + 17 * len(shown)), None)
    mean.update_xaxes(title_text="Φ, mean over blocks")
    blocks = []
    for block in blocks_of(runs):
        figure = _fidelity(shown, 48 + 5 * (8 + 12 * len(shown)), block)
        figure.update_layout(margin_b=28)
        blocks.append(Panel(f"Block {block}", told(shown, block), figure))
    return [Panel("", told(shown), mean)], blocks


def blocks_of(runs: Sequence[ShownRun]) -> list[int]:
    """The blocks whose MLP input any run reads."""
    return sorted({block for run in runs for block in run.figures.blocks})


def told(runs: Sequence[ShownRun], block: int | None = None) -> str:
    """The fidelities of a figure in words."""
    texts = []
    for run in runs:
        values = ", ".join(
            f"{SCHEME_LABELS[scheme]} {cell(value.mean)}"
            for scheme, value in _fidelities(run, "exact_mid", block)
        )
        if values:
            texts.append(f"{run.name}: {values}")
    return f"Φ. {'; '.join(texts)}."


def _fidelities(run: ShownRun, mid: str, block: int | None) -> Iterator[tuple[str, Estimate]]:
    """Each scheme's Φ: the mean over blocks with its interval, or one block's, if it has that."""
    if block is not None and block not in run.figures.blocks:
        return
    for scheme in SCHEME_LABELS:
        value = run.figures.fidelity(scheme, mid)
        if value is not None and block is None:
            yield scheme, value
        elif value is not None and block is not None:
            yield scheme, Estimate(value.by_block[run.figures.blocks.index(block)])


def _fidelity(runs: Sequence[ShownRun], height: int, block: int | None) -> go.Figure:
    """A bar a run and scheme; traces carry their kind of mid, of which the page shows one."""
    figure = plain_figure(height, barmode="group", bargap=0.28, bargroupgap=0.1)
    for run, mid in ((run, mid) for mid in mids(runs) for run in reversed(runs)):
        values = dict(_fidelities(run, mid, block))
        numbers = [value.value for value in values.values()]
        figure.add_bar(
            y=[SCHEME_LABELS[scheme] for scheme in values],
            x=numbers,
            error_x=error_bar(list(values.values()), "var(--ink)"),
            orientation="h",
            name=run.name,
            marker={"color": run.colour},
            text=[f"{value:.2f}" if value < LOWEST_PHI else "" for value in numbers],
            meta=mid,
            visible=mid == "exact_mid",
            hovertemplate="%{y}: Φ %{x:.3f}<extra>%{fullData.name}</extra>",
        )
    order = list(SCHEME_LABELS.values())[::-1]
    figure.update_xaxes(range=_phi_range(runs))
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    return figure


def _phi_range(runs: Sequence[ShownRun]) -> list[float]:
    """One range for all panels, so that they compare."""
    values = [0.0, 1.0]
    for run, mid in ((run, mid) for run in runs for mid in mids(runs)):
        for scheme in SCHEME_LABELS:
            whole = run.figures.fidelity(scheme, mid)
            values += (*whole.by_block, *whole.ends) if whole is not None else ()
    values = [value for value in values if not math.isnan(value)]
    return [max(min(values), LOWEST_PHI) - 0.02 * (min(values) < 0), max(values)]


def keep_panels(runs: Sequence[ShownRun]) -> list[Panel]:
    """Φ against the number of latents that every neuron keeps, the last point being all of them."""
    shown = [(run, curve) for run in runs if (curve := run.figures.keep_curve) is not None]
    if not shown:
        return []
    figure = plain_figure(300, hovermode="closest")
    texts = []
    for run, curve in shown:
        labels = [*(f"{m:g} largest" for m in curve.kept[:-1]), f"all, {curve.kept[-1]:.3g}"]
        points = [p for p in zip(curve.kept, curve.phi, labels, strict=True) if p[1].defined]
        figure.add_scatter(
            x=[kept for kept, _, _ in points],
            y=[phi.value for _, phi, _ in points],
            error_y=error_bar([phi for _, phi, _ in points], run.colour),
            customdata=[label for _, _, label in points],
            mode="lines+markers",
            line={"color": run.colour, "width": 2},
            marker={"size": 8, "color": run.colour},
            name=run.name,
            hovertemplate="%{customdata}: Φ %{y:.3f}<extra>%{fullData.name}</extra>",
        )
        told_points = ", ".join(f"{label} {cell(phi)}" for _, phi, label in points)
        texts.append(f"{run.name}: {told_points}")
    most = max(curve.kept[-1] for _, curve in shown)
    ticks = [2**i for i in range(1 + math.ceil(math.log2(max(most, 2))))]
    figure.update_xaxes(type="log", tickvals=ticks, title_text="Latents kept a neuron, log₂ scale")
    lowest = {"clipmin": LOWEST_PHI}
    figure.update_yaxes(title_text="Φ", automargin=True, autorangeoptions=lowest)
    return [Panel("", f"Φ by latents kept. {'; '.join(texts)}.", figure)]


def share_panels(runs: Sequence[ShownRun]) -> list[Panel]:
    """How the dominant share of neurons is distributed, a panel a block."""
    shown = [run for run in runs if run.figures.share_histogram]
    words = "Distribution of the dominant share; its mean is in the table."
    blocks = blocks_of(runs) if shown else []
    return [Panel(f"Block {block}", words, _shares(shown, block)) for block in blocks]


def _shares(runs: Sequence[ShownRun], block: int) -> go.Figure:
    figure = plain_figure(174, hovermode="x unified")
    for run in runs:
        histogram = run.figures.share_histogram
        if histogram is None or block not in run.figures.blocks:
            continue
        figure.add_scatter(
            x=[(low + high) / 2 for low, high in pairwise(histogram.edges)],
            y=histogram.by_block[run.figures.blocks.index(block)],
            mode="lines",
            line={"color": run.colour, "width": 2, "shape": "hvh"},
            fill="tozeroy",
            fillcolor=run.soft_colour,
            name=run.name,
            hovertemplate="%{y:.1%}",
        )
    figure.update_xaxes(range=[0, 1], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_layout(margin_b=28)
    figure.update_yaxes(rangemode="tozero", tickformat=".0%", nticks=4, automargin=True)
    return figure


def fvu_panels(runs: Sequence[ShownRun]) -> list[Panel]:
    """FVU at each hookpoint, in forward order from the top."""
    shown = [(run, fvu) for run in runs if (fvu := run.figures.by_hookpoint.get("fvu"))]
    names = list(dict.fromkeys(name for _, values in shown for name in values))
    if not names:
        return []
    figure = plain_figure(70 + 24 * len(names), hovermode="closest")
    labels = [_short(name) for name in names]
    for name, label in zip(names, labels, strict=True):
        ends = [values[name] for _, values in shown if name in values]
        line = {"color": "var(--grid)", "width": 3}
        figure.add_scatter(
            x=[min(ends), max(ends)], y=[label, label], mode="lines", line=line, hoverinfo="skip"
        )
    for run, values in shown:
        figure.add_scatter(
            x=list(values.values()),
            y=[_short(name) for name in values],
            mode="markers",
            marker={"size": 10, "color": run.colour},
            name=run.name,
            hovertemplate="%{y}: FVU %{x:.3f}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(rangemode="tozero", title_text="FVU")
    order = labels[::-1]
    figure.update_yaxes(categoryorder="array", categoryarray=order, automargin=True)
    return [Panel("", "FVU at each hookpoint; the numbers are in the last table.", figure)]


def _short(hookpoint: str) -> str:
    """`blocks.3.hook_resid_pre` as `3 resid_pre`."""
    return hookpoint.removeprefix("blocks.").replace("hook_", "").replace(".", " ")
