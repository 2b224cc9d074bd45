"""Tables of `crossproof attribute`, made to be read at 80 columns.

Numbers are never broken or cut: what does not fit (intervals of the steps, ceilings, bounds and
lengths of the last block's certificates) is left to attribution.json and the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from crossproof.proof.attribution.reading import best_chain, short_step, vacuous_from

KINDS = {"measured": "measured", "propagates": "ball", "code": "code"}
STEPS = (
    "Steps by block. restarted: its size if the ball before it had the true radius. lost: tokens "
    "whose bound becomes vacuous here. ball: bounds how far a layer moves within the ball; code: "
    "a function of latents, dictionary and weights."
)
CERTIFIED = (
    "certified: % of tokens whose prediction provably stays, with its 95% interval; true: % that "
    "stay. Ceilings, bounds and lengths of the proof are in attribution.json."
)
ABREAST = 2
"""Crosscoders that fit beside each other in a table of the last block."""
WORDS = {"MLP", "attention", "says", "vacuous from", "which is", "its neurons"}
"""Headings of columns that hold no numbers."""
Runs = Mapping[str, Mapping[str, Any]]


def attribution_tables(content: Mapping[str, Any]) -> Iterator[Table]:
    """Losses, bounds, the steps of the best chain, the last block, the costliest pairs."""
    runs: Runs = content["runs"]
    chained = {name: figures for name, figures in runs.items() if "chains" in figures}
    chain = best_chain(chained.values())
    if chain is not None:
        yield _loss_table(chained)
        yield _bound_table(chained)
        for name, figures in chained.items():
            yield _stage_table(name, chain, figures, last=name == list(chained)[-1])
    yield from _last_tables(runs)
    for name, figures in runs.items():
        yield _cost_table(name, figures["costs"])


def _table(title: str, first: str, *others: str, **style: Any) -> Table:
    """A first column that may wrap, and others that never do."""
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, **style)
    table.show_edge = table.pad_edge = False
    table.title_justify = table.caption_justify = "left"
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="left" if heading in WORDS else "right", no_wrap=True)
    return table


def _loss_table(runs: Runs) -> Table:
    first = next(iter(runs.values()))
    frequencies, classes = (first["baselines"][key] for key in ("unigram_entropy", "log_classes"))
    caption = (
        f"The claim decodes the last hookpoint. A bound is vacuous from {vacuous_from(first):.3f} "
        f"(entropy of the next tokens' frequencies {frequencies:.3f}, log V {classes:.3f})."
    )
    headings = ("crosscoder", "the model's loss", "claimed loss")
    title = "\nCross-entropy in nats, 95% intervals over sequences"
    table = _table(title, *headings, caption=caption)
    for name, run in runs.items():
        table.add_row(escape(name), *(_nats(run["loss"][key]) for key in ("true", "claimed")))
    return table


def _bound_table(runs: Runs) -> Table:
    """One row a crosscoder and chain; the name stands on its first row."""
    headings = ("crosscoder", "MLP", "attention", "bound", "says", "vacuous from")
    table = _table("\nBounds on the model's loss", *headings)
    for name, run in runs.items():
        table.add_section()
        for place, (chain, found) in enumerate(run["chains"].items()):
            engine, attention = chain.split(", attention ")
            table.add_row(
                "" if place else escape(name),
                engine,
                attention,
                f"{_mean(found['loss_bound']):.2f}",
                "nothing" if found["vacuous"] else "something",
                short_step(found["mean_first_vacuous"] or "never"),
            )
    return table


def _stage_table(name: str, chain: str, run: Mapping[str, Any], last: bool) -> Table:
    """A chain's steps; those that add nothing are left out."""
    headings = ("adds", "restarted", "radius", "bound", "lost", "which is")
    title = f"\n{escape(name)}, step by step: {chain}"
    table = _table(title, "step", *headings, caption=STEPS if last else None)
    for row in run["chains"][chain]["stages"]:
        if _mean(row["adds"]) < 1e-9:
            continue
        table.add_row(
            short_step(row["stage"]),
            _short(_mean(row["adds"])),
            _restarted(run["restarted"], row),
            _short(row["radius"]),
            f"{_mean(row['loss_bound']):.2f}",
            f"{row['first_vacuous_here']:.1%}",
            KINDS[row["kind"]],
        )
    return table


def _last_tables(runs: Runs) -> Iterator[Table]:
    """One table a reference and group of crosscoders that fit beside each other."""
    groups = _groups(runs)
    references = list(next(iter(runs.values()))["last_block"])
    for reference in references:
        for group in groups:
            last = reference == references[-1] and group is groups[-1]
            yield _last_table(reference, group, CERTIFIED if last else None)


def _groups(runs: Runs) -> list[Runs]:
    entries = iter(runs.items())
    return [dict(islice(entries, ABREAST)) for _ in range(0, len(runs), ABREAST)]


def _last_table(reference: str, runs: Runs, caption: str | None) -> Table:
    title = f"\nLast block: top-1 predictions that stay, against {reference}"
    table = _table(title, "MLP becomes", caption=caption)
    for name in runs:
        heading = f"{escape(name)}\ncertified"
        table.add_column(heading, justify="right", overflow="fold", min_width=18)
        table.add_column("\ntrue", justify="right", no_wrap=True, vertical="bottom")
    for variant in next(iter(runs.values()))["last_block"][reference]:
        cells = []
        for run in runs.values():
            figures = run["last_block"][reference][variant]
            cells += [_share(figures["certified"]), f"{_mean(figures['unchanged']) * 100:.1f}"]
        table.add_row(variant, *cells)
    return table


def _cost_table(name: str, costs: Mapping[str, Any]) -> Table:
    title = f"\n{escape(name)}: pairs and neurons that cost the proof most"
    headings = ("a token", "block", "its neurons", "neuron", "a token")
    table = _table(title, "pair", *headings, caption="3.47 is neuron 47 of block 3.")
    neurons = costs["neurons"]
    for place, pair in enumerate(costs["pairs"]):
        block = max(pair["by_block"], key=pair["by_block"].get)
        inside = ", ".join(f"{n['block']}.{n['neuron']}" for n in pair["neurons"][:3])
        other = ("", "")
        if place < len(neurons):
            found = neurons[place]
            other = f"{found['block']}.{found['neuron']}", f"{found['per_token']:.3f}"
        pairs = " ".join(map(str, pair["latents"]))
        table.add_row(pairs, f"{pair['per_token']:.3f}", block, inside, *other)
    return table


def _restarted(columns: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return _short(_mean(columns[row["part"]][row["block"]])) if row["part"] in columns else ""


def _mean(figure: Mapping[str, Any]) -> float:
    return float(figure["mean"])


def _short(value: float) -> str:
    """A length in at most seven characters."""
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.{2 if abs(value) < 10 else 1 if abs(value) < 100 else 0}f}"


def _nats(figure: Mapping[str, Any]) -> str:
    low, high = figure["ci"]
    return f"{figure['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _share(figure: Mapping[str, Any]) -> str:
    """A percentage with its interval, without the sign."""
    low, high = figure["ci"]
    return f"{figure['mean'] * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"
