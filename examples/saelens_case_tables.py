"""The tables of docs/case-smollm2.md, in Markdown, from the run that its commands leave.

    python examples/saelens_case_tables.py runs/case

Reads what `crossproof evaluate` left in RUN/evaluation-held_out, and `crossproof measure` in
RUN/measure, its sums over pairs among it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from crossproof.interactions import Interactions

Found = dict[str, Any]


@dataclass(frozen=True)
class Tables:
    """What to read."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder, evaluated and measured."""

    def print(self) -> None:
        """Both tables, a column a dictionary."""
        evaluated = _runs(self.run / "evaluation-held_out" / "results.json")
        print(_table(evaluated, dict(_evaluated(list(evaluated.values())))))
        measured = _runs(self.run / "measure" / "measure.json")
        folders = [self.run / "measure" / name for name in measured]
        sums = [Interactions.load(folder) for folder in folders]
        print(_table(measured, dict(_measured(list(measured.values()), sums))))


def _runs(path: Path) -> dict[str, Found]:
    runs: dict[str, Found] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return runs


def _table(columns: Sequence[str] | dict[str, Found], rows: dict[str, list[str]]) -> str:
    lines = [
        ["", *columns],
        ["---"] * (len(columns) + 1),
        *([name, *r] for name, r in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _evaluated(runs: list[Found]) -> Iterator[tuple[str, list[str]]]:
    """Rows of the first table."""
    yield "read by the MLP of block", [", ".join(map(str, run["blocks"])) for run in runs]
    yield "L0", [_number(run["l0"], 1) for run in runs]
    for label, name, digits in (("FVU", "fvu", 3), ("CE recovered", "ce_recovered", 3)):
        yield label, [_with_interval(run, name, digits) for run in runs]
    yield "KL recovered", [_number(run["kl_recovered"], 3) for run in runs]
    yield "not active", [f"{run['dead']:.1%}" for run in runs]
    for scheme, said in (("none", "all latents"), ("keep-largest", "a neuron keeps 1 latent")):
        for rest, how in (("exact_mid", "exact rest"), ("mean_rest", "mean rest")):
            cells = [_estimate(run["phi"][scheme][rest], 2) for run in runs]
            yield f"Φ, {said}, {how}", cells
    curves = [run["keep_curve"] for run in runs]
    for at, kept in enumerate(curves[0]["kept"][:-1]):
        cells = [_estimate(curve["phi"][at], 2) for curve in curves]
        first = f"on the first {curves[0]['sequences']} stories: keeps " if at == 0 else ""
        yield f"{first}{kept:g}", cells
    yield "area under the curve", [_estimate(curve["area"], 2) for curve in curves]
    yield "dominant share", [_number(run["dominant_share"], 3) for run in runs]
    yield "interaction I(x)", [_with_interval(run, "interaction", 0) for run in runs]
    for label, name, digits in (
        ("residual R", "residual", 0),
        ("norm's own interaction, all latents", "norm_interaction", 0),
        ("norm's own interaction, one latent", "norm_interaction_single", 1),
    ):
        yield label, [_number(run[name], digits) for run in runs]


def _measured(runs: list[Found], sums: list[Interactions]) -> Iterator[tuple[str, list[str]]]:
    """Rows of the second table."""
    for form, label in (("I", "I"), ("AND", "of it AND"), ("Q", "Q, pair form"), ("norm", "norm")):
        if all(form in run["totals"] for run in runs):  # only gated MLPs have AND
            yield label, [_estimate(run["totals"][form], 0) for run in runs]
    yield "pairs that are ever active together", [f"{run['pairs']:,}" for run in runs]
    shares = [each.pair_sums("I", normalise="sum").double() for each in sums]
    shares = [(s / s.sum()).sort(descending=True).values.cumsum(0) for s in shares]
    yield "share of I in the 100 strongest", [f"{float(share[99]):.1%}" for share in shares]
    halves = [int((share < 0.5).sum()) + 1 for share in shares]
    pairs = zip(halves, shares, strict=True)
    yield "pairs that make half of it", [f"{half:,} ({half / len(of):.1%})" for half, of in pairs]
    silent = [float((each.active == 0).double().mean()) for each in sums]
    yield "latents not active there", [f"{share:.1%}" for share in silent]


def _with_interval(run: Found, name: str, digits: int) -> str:
    ends = run["intervals"][name]
    return (
        f"{_number(run[name], digits)} ({_number(ends[0], digits)} to {_number(ends[1], digits)})"
    )


def _estimate(found: Found, digits: int) -> str:
    if found["mean"] is None:
        return "not defined"
    low, high = (_number(end, digits) for end in found["ci"])
    return f"{_number(found['mean'], digits)} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}".replace("-", "−")


if __name__ == "__main__":
    tyro.cli(Tables, description=__doc__).print()
