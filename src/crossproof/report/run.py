"""The report of a run folder: picks latents, finds their contexts, writes the page."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from crossproof.activations.corpus import HeldOut
from crossproof.evaluation.contexts import LatentExample, pick_latents, top_contexts
from crossproof.files import read_json
from crossproof.lm import LanguageModel
from crossproof.report.attribution import attributed
from crossproof.report.clusters import clustered
from crossproof.report.page import write_report
from crossproof.report.stored import stored
from crossproof.training.run_folder import run_crosscoders

SHOWN_LATENTS = 6
SHOWN_SEQUENCES = 64
"""Contexts are found in this many held-out sequences at most."""


def report_run(model: LanguageModel, folder: Path, output: Path, results: dict[str, Any]) -> Path:
    """Writes `output`/report.html on the crosscoders in `folder`; returns its path.

    `results` is the content of results.json. The published sweep is drawn behind the runs if it
    was measured on the same model.
    """
    place = results["evaluated_on"]
    sequences = HeldOut(**place).read(model)[:SHOWN_SEQUENCES]
    examples: dict[str, list[LatentExample]] = {}
    for name, (crosscoder, _) in run_crosscoders(folder).items():
        latents = pick_latents(model, crosscoder, sequences, SHOWN_LATENTS)
        examples[name] = top_contexts(model, crosscoder, sequences, latents)
    published = published_sweep(model.weights_hash)
    weights = model.weights_hash
    return write_report(
        output,
        results,
        examples,
        published,
        measured(folder, weights),
        clustered(folder, weights),
        attributed(folder, weights),
    )


def refresh_report(model: LanguageModel, folder: Path) -> Path:
    """Writes the report of an evaluated run folder again, with what has been measured since."""
    return report_run(model, folder, folder, read_json(folder / "results.json"))


def measured(folder: Path, weights_hash: str) -> dict[str, Any] | None:
    """What `crossproof measure` found about the run, if it has been run on these weights."""
    return stored(folder / "measure" / "measure.json", weights_hash)


def published_sweep(weights_hash: str) -> dict[str, Any] | None:
    """The sweep that ships with the package, if it was measured on these weights."""
    resource = files("crossproof.report").joinpath("published.json")
    if not resource.is_file():
        return None
    sweep: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    return sweep if sweep.get("model_hash") == weights_hash else None
