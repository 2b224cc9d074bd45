"""A run folder with two random crosscoders of a tiny model, and the explorer store made of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from tiny_models import CONTEXT, D_MODEL, random_tokens

from crossproof.activations import TextSlice
from crossproof.crosscoder import Crosscoder, CrosscoderConfig, Provenance, save_crosscoder
from crossproof.explorer.builder import BuildOptions
from crossproof.explorer.building import build_store
from crossproof.lm import LanguageModel
from crossproof.training.config import RECIPES

LATENTS, K, SEQUENCES = 40, 5, 40
OPTIONS = BuildOptions(batch_sequences=16)
NAMES = ("unpenalised", "penalised")


def save_run(model: LanguageModel, folder: Path) -> TextSlice:
    """Writes the run; the text that its store is made from."""
    text = folder.parent / f"{folder.name}-text.safetensors"
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
    return TextSlice(str(text), "held_out", SEQUENCES, CONTEXT)


def build_run(model: LanguageModel, folder: Path) -> TextSlice:
    """The run with its store."""
    text = save_run(model, folder)
    build_store(model, folder, text, OPTIONS)
    return text
