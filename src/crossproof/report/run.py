"""The report of a run folder: everything on it was written down by the commands before."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from crossproof.clusters.result import ClusterResult
from crossproof.evaluation.measurement import RunMeasurement
from crossproof.evaluation.results import RunEvaluation
from crossproof.files import read_json
from crossproof.proof.attribution.result import AttributionResult
from crossproof.report.page import write_report
from crossproof.result import Result

R = TypeVar("R", bound=Result)


def report_run(folder: Path, output: Path, results: RunEvaluation) -> Path:
    """Writes `output`/report.html on the crosscoders in `folder`; returns its path.

    The published sweep is drawn behind the runs if it was measured on the same model.
    """
    model = results.model_hash
    return write_report(
        output,
        results,
        published_sweep(model),
        stored(folder / "measure" / "measure.json", RunMeasurement, model),
        stored(folder / "clusters" / "clusters.json", ClusterResult, model),
        stored(folder / "attribution" / "attribution.json", AttributionResult, model),
    )


def refresh_reports(folder: Path) -> list[Path]:
    """Writes every report on a run folder again, with what has been measured since; their paths.

    That of its training, and those of `crossproof evaluate` in folders evaluation-SPLIT below it.
    """
    evaluated = [
        place
        for place in (folder, *sorted(folder.glob("evaluation-*")))
        if (place / "results.json").exists()
    ]
    return [
        report_run(folder, place, RunEvaluation.load(place / "results.json")) for place in evaluated
    ]


def stored(path: Path, kind: type[R], weights_hash: str) -> R | None:
    """What a later command has left in a run folder; None if nothing, or about other weights.

    Raises CrossproofError if it cannot be read.
    """
    if not path.exists() or read_json(path).get("model_hash", weights_hash) != weights_hash:
        return None
    return kind.load(path)


def published_sweep(weights_hash: str) -> dict[str, Any] | None:
    """The sweep that ships with the package, if it was measured on these weights."""
    resource = files("crossproof.report").joinpath("published.json")
    if not resource.is_file():
        return None
    sweep: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    return sweep if sweep.get("model_hash") == weights_hash else None
