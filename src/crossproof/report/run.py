"""The report of a run folder: everything on it was written down by the commands before."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from crossproof.evaluation.measurement import RunMeasurement
from crossproof.evaluation.results import RunEvaluation
from crossproof.report.attribution import attributed
from crossproof.report.clusters import clustered
from crossproof.report.page import write_report
from crossproof.report.stored import stored


def report_run(folder: Path, output: Path, results: RunEvaluation) -> Path:
    """Writes `output`/report.html on the crosscoders in `folder`; returns its path.

    The published sweep is drawn behind the runs if it was measured on the same model.
    """
    model = results.model_hash
    return write_report(
        output,
        results,
        published_sweep(model),
        measured(folder, model),
        clustered(folder, model),
        attributed(folder, model),
    )


def refresh_report(folder: Path) -> Path:
    """Writes the report of an evaluated run folder again, with what has been measured since."""
    return report_run(folder, folder, RunEvaluation.load(folder / "results.json"))


def measured(folder: Path, weights_hash: str) -> RunMeasurement | None:
    """What `crossproof measure` found about the run, if it has been run on these weights."""
    content = stored(folder / "measure" / "measure.json", weights_hash)
    return None if content is None else RunMeasurement.from_json(content)


def published_sweep(weights_hash: str) -> dict[str, Any] | None:
    """The sweep that ships with the package, if it was measured on these weights."""
    resource = files("crossproof.report").joinpath("published.json")
    if not resource.is_file():
        return None
    sweep: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    return sweep if sweep.get("model_hash") == weights_hash else None
