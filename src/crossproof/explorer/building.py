"""Builds a run's explorer store: once, with progress, and on after an interruption."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

from crossproof.activations.corpus import TextSlice
from crossproof.clusters.result import ClusteredRun, ClusterResult
from crossproof.crosscoder.encode import for_figures
from crossproof.crosscoder.folders import WEIGHTS
from crossproof.errors import CrossproofError
from crossproof.evaluation.results import RunEvaluation
from crossproof.explorer.builder import STATE, Builder, BuildOptions, Progress
from crossproof.explorer.format import (
    BUILDING,
    MANIFEST,
    STORE,
    DictionaryFacts,
    FileFacts,
    Manifest,
)
from crossproof.explorer.material import Document
from crossproof.files import make_folder, read_json, write_json
from crossproof.lm.model import LanguageModel
from crossproof.report.run import stored
from crossproof.training.run_folder import RunFolder, objective_label

_FACTS, _ASKED = "facts.json", "asked.json"
_STATE = 2
"""What an interrupted build has left counts up with what its files hold."""


def build_store(
    model: LanguageModel,
    run: Path,
    text: TextSlice,
    options: BuildOptions = BuildOptions(),  # noqa: B008  (frozen)
    progress: Progress | None = None,
) -> Manifest:
    """Builds RUN/explorer, in place of an earlier one, from all dictionaries of the run.

    What an interrupted call of the same options has left is used. Raises CrossproofError if there
    is no dictionary, one explains another model, or the folder cannot be written.
    """
    began, folder = time.monotonic(), RunFolder.open(run)
    sequences = text.read(model)
    dictionaries = folder.crosscoders(model)
    part = _begun(run, folder, model, text, options)
    tell = progress or (lambda *_: None)
    facts = []
    for number, (name, crosscoder) in enumerate(dictionaries.items()):
        place = part / str(number)
        if not (place / _FACTS).exists():
            make_folder(place)
            builder = Builder(model, name, for_figures(crosscoder), sequences, options, place, tell)
            made = builder.built(_clusters(run, model, name))
            made = replace(made, **_known(run, model, folder, name))
            write_json(place / _FACTS, asdict(made))
        facts.append(DictionaryFacts(**read_json(place / _FACTS)))
    _remove_working_files(part)
    paths = sorted(p for p in part.rglob("*") if p.is_file() and p.name != _ASKED)
    manifest = Manifest(
        model=model.name,
        model_hash=model.weights_hash,
        text=replace(text, sequences=len(sequences)),
        dictionaries=tuple(facts),
        files={path.relative_to(part).as_posix(): FileFacts.of(path) for path in paths},
        seconds=round(time.monotonic() - began, 1),
    )
    manifest.save(part / MANIFEST)
    _publish(part, run / STORE)
    return manifest


def _begun(
    run: Path, folder: RunFolder, model: LanguageModel, text: TextSlice, options: BuildOptions
) -> Path:
    """The folder that is built in, emptied if it was begun for something else."""
    part = run / BUILDING
    weights = {name: _digest(path / WEIGHTS) for name, path in folder.folders.items()}
    asked = {"state": _STATE, "model": model.weights_hash, "weights": weights}
    asked |= {"text": asdict(text)}
    asked = json.loads(json.dumps(asked | {"options": asdict(options)}))
    if part.exists() and (not (part / _ASKED).exists() or read_json(part / _ASKED) != asked):
        shutil.rmtree(part)
    make_folder(part)
    write_json(part / _ASKED, asked)
    return part


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _remove_working_files(part: Path) -> None:
    for place in part.iterdir():
        if place.is_dir():
            (place / STATE).unlink(missing_ok=True)


def _publish(part: Path, store: Path) -> None:
    """Puts the finished folder in the place of the one before it."""
    retired = store.with_name(f".{store.name}.{os.getpid()}.old")
    (part / _ASKED).unlink(missing_ok=True)
    try:
        if store.exists():
            os.rename(store, retired)
        os.rename(part, store)
    except OSError as error:
        raise CrossproofError(
            f"Cannot write {store} ({error.strerror}): free that place and build again."
        ) from error
    shutil.rmtree(retired, ignore_errors=True)


def _clusters(run: Path, model: LanguageModel, name: str) -> ClusteredRun | None:
    path = run / "clusters" / "clusters.json"
    result = stored(path, ClusterResult, model.weights_hash)
    return None if result is None else result.runs.get(name)


def _known(run: Path, model: LanguageModel, folder: RunFolder, name: str) -> Document:
    """What the run's own documents say of a dictionary: its objective and headline figures."""
    known: Document = {"objective": objective_label(folder.provenance(name))}
    results = stored(run / "results.json", RunEvaluation, model.weights_hash)
    if results is None or name not in results.runs:
        return known
    figures = results.runs[name]
    rows = {
        "Φ keep-largest": figures.fidelity("keep-largest"),
        "Φ all latents": figures.fidelity("none", figures.whole_mid),
        "FVU": figures.figure("fvu"),
        "L0": figures.figure("l0"),
    }
    values = {label: [e.value, *e.ends] for label, e in rows.items() if e is not None}
    return known | {"figures": values}
