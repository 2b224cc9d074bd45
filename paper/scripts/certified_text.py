"""Certificates of the bundled language model with several dictionaries: contexts and statistical.

    python -m paper.scripts.certified_text --out paper/data/certified-text.json

For every seed the demo's crosscoders are trained, unless the run folder holds them already, and of
each are certified: what the last MLP, and the last two, lose at listed contexts when every
neuron reads m latents; and, with confidence 1 - δ, what that and the reconstruction cost on
held-out documents. Of a certificate the verifier's own figures are kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from crossproof import TextSlice, load_model, train
from crossproof.crosscoder import Crosscoder
from crossproof.files import write_json
from crossproof.lm import LanguageModel
from crossproof.proof.certificate import (
    ContextOptions,
    DocumentSlice,
    StatisticalOptions,
    prove_contexts,
    prove_statistical,
)
from crossproof.training import DEMO, RunFolder, thread_setting


@dataclass(frozen=True)
class CertifiedText:
    """Trains and certifies."""

    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 400
    """Of training, 1,024 tokens each."""
    crosscoders: tuple[str, ...] = ("penalised", "unpenalised")
    contexts: int = 4
    """How many are listed."""
    keep: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8)
    """Latents a neuron, at the contexts and in the documents."""
    documents: int = 300
    delta: float = 0.05
    threads: int = 1
    runs: Path = Path("runs/certified-text")
    out: Path = Path("runs/certified-text.json")


def crosscoders(options: CertifiedText, seed: int, model: LanguageModel) -> dict[str, Crosscoder]:
    """Those of a run, trained now or before; only those that are asked for."""
    folder, baseline = options.runs / f"seed-{seed}", "unpenalised" in options.crosscoders
    if not folder.exists():
        config = replace(DEMO, seed=seed, steps=options.steps, baseline=baseline)
        train(replace(config, threads=options.threads), folder, model)
    return RunFolder.open(folder).crosscoders(model)


def at_contexts(
    options: CertifiedText, model: LanguageModel, crosscoder: Crosscoder, out: Path
) -> list[dict[str, Any]]:
    """What is certified at the listed contexts, and beside it what was measured."""
    text = TextSlice("bundled", "held_out", options.contexts, DEMO.context, DEMO.skipped)
    result = prove_contexts(model, crosscoder, text, out, ContextOptions(options.keep))
    assert result.holds
    return [
        {
            "mlps": bound.mlps,
            "keep": bound.keep,
            "predictions": bound.predictions,
            "kept": bound.kept,
            "loss_change": bound.loss_change,
            "measured_kept": truth.kept,
            "measured_change": truth.loss_change,
        }
        for bound, truth in zip(result.bounds, result.measured, strict=True)
    ]


def in_documents(
    options: CertifiedText, model: LanguageModel, crosscoder: Crosscoder, out: Path
) -> list[dict[str, Any]]:
    """What is bounded of held-out documents with the stated confidence."""
    text = DocumentSlice("bundled", "held_out", DEMO.context, DEMO.skipped)
    asked = StatisticalOptions(delta=options.delta, keep=options.keep, documents=options.documents)
    result = prove_statistical(model, crosscoder, text, out, asked)
    assert result.holds
    return [
        {
            "treatment": bound.treatment,
            "quantity": bound.quantity,
            "bound": bound.bound,
            "measured": bound.measured,
            "bernstein": bound.bernstein,
            "hoeffding": bound.hoeffding,
            "vacuous": result.vacuous(bound),
        }
        for bound in result.bounds
    ]


def main(options: CertifiedText) -> None:
    """Trains, certifies, writes the file anew after every dictionary."""
    thread_setting(options.threads)
    model, results = load_model("bundled"), []
    sizes = ("steps", "contexts", "documents", "delta")
    content = {name: getattr(options, name) for name in sizes}
    for seed in options.seeds:
        for name, crosscoder in crosscoders(options, seed, model).items():
            if name not in options.crosscoders:
                continue
            began, out = time.perf_counter(), options.runs / f"seed-{seed}-{name}"
            row: dict[str, Any] = {"seed": seed, "crosscoder": name}
            row["contexts"] = at_contexts(options, model, crosscoder, out / "contexts")
            row["statistical"] = in_documents(options, model, crosscoder, out / "statistical")
            results.append(row | {"seconds": round(time.perf_counter() - began, 1)})
            write_json(options.out, content | {"dictionaries": results})
            print(seed, name, results[-1]["seconds"], flush=True)


if __name__ == "__main__":
    main(tyro.cli(CertifiedText))
