"""A run folder with two random crosscoders of a tiny model, and the explorer store made of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors.torch import save_file
from tiny_models import CONTEXT, D_MODEL, random_tokens

from crossproof.activations import TextSlice
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.explorer.builder import BuildOptions
from crossproof.explorer.building import build_store
from crossproof.explorer.format import MANIFEST, STORE
from crossproof.lm import LanguageModel
from crossproof.training.config import RECIPES

LATENTS, K, SEQUENCES = 40, 5, 40
OPTIONS = BuildOptions(batch_sequences=16, described=60)
"""Fewer pages than pairs, so that there are pairs of either sort."""
NAMES = ("unpenalised", "penalised")


def save_run(model: LanguageModel, folder: Path) -> TextSlice:
    """Writes the run; the text that its store is made from."""
    text = Path(text_of(folder).text)
    text.parent.mkdir(parents=True, exist_ok=True)
    save_file({"held_out": random_tokens(SEQUENCES, CONTEXT, seed=1)}, text)
    hookpoints = model.hookpoints()
    sample = model.activations(random_tokens(20, CONTEXT, seed=9), hookpoints.names)
    for seed, name in enumerate(NAMES):
        crosscoder = Crosscoder(CrosscoderConfig(LATENTS, "topk", K), hookpoints, D_MODEL)
        crosscoder.initialise(sample.flatten(0, 1).clone(), seed=seed)
        training = asdict(RECIPES["demo"]) | {"text": str(text)}
        provenance = Provenance(model.name, model.weights_hash, seed, training)
        save_crosscoder(crosscoder, folder / name / "crosscoder", provenance)
    return text_of(folder)


def build_run(model: LanguageModel, folder: Path) -> TextSlice:
    """The run with its store."""
    text = save_run(model, folder)
    build_store(model, folder, text, OPTIONS)
    return text


def shared_run(model: LanguageModel, factory: pytest.TempPathFactory) -> Path:
    """The run with its store, made once for all tests and all of their processes."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    run = folder / "explored" / "run"
    with FileLock(folder / "explored.lock"):
        if not (run / STORE / MANIFEST).exists():
            build_run(model, run)
    return run


def text_of(run: Path) -> TextSlice:
    """The text that the store of `build_run` is made from."""
    return TextSlice(
        str(run.parent / f"{run.name}-text.safetensors"), "held_out", SEQUENCES, CONTEXT
    )
