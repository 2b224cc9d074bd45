"""`crossproof attribute`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from crossproof.commands.early import check_text, loading
from crossproof.commands.following import next_step
from crossproof.commands.models import ModelOptions
from crossproof.commands.parsing import parse
from crossproof.crosscoder.folders import finished_crosscoders


@dataclass(frozen=True)
class Attribute:
    """Walk the proof through a real model, token by token, and say where it breaks.

    An error attribution, not a compact proof: it runs the model at every token. It reports the
    bound on the cross-entropy that the dictionary supports, what each step adds to it, the
    latents and neurons behind it, and which of the last block's predictions a simplified MLP
    provably keeps:

      crossproof attribute runs/demo
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A folder written by `crossproof train`, or one that holds crosscoder.safetensors."""
    language_model: ModelOptions = field(default_factory=ModelOptions)
    text: str | None = None
    """Text to attribute; by default the run's own source."""
    split: Literal["held_out", "validation", "train"] = "held_out"
    sequences: int = 8
    """How many sequences; each takes the demo's two crosscoders sixteen seconds of a processor."""
    context: int | None = None
    """Tokens a sequence; by default as many as the run was trained on."""
    parts: Literal["both", "last-block"] = "both"
    """last-block: only its certificates, which need a decoder at the last MLP's input alone."""
    top: int = 12
    """How many of the costliest pairs and neurons to list."""
    out: Path | None = None
    """Folder for attribution.json and the per-token figures; by default RUN/attribution."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice."""


def run(arguments: Sequence[str], began: float) -> None:
    """Attributes, prints tables, writes attribution.json and renews the run's report."""
    options: Attribute = parse(Attribute, "attribute", arguments)
    finished_crosscoders(options.run)  # before anything is loaded
    options.language_model.check()
    check_text(options.text)

    with loading():
        from crossproof.activations.corpus import TextSlice, fitting_context
        from crossproof.commands.finish import show
        from crossproof.proof.attribution import attribute
        from crossproof.report.terminal import evaluation_display, say
        from crossproof.training.machine import thread_setting

    thread_setting(options.threads)
    model, config = options.language_model.load(options.run)
    context = fitting_context(options.context or config.context, model)
    source, rows = options.text or config.text, config.rows
    text = TextSlice(source, options.split, options.sequences, context, rows=rows)
    out = options.out or options.run / "attribution"
    with evaluation_display("attributing", "sequences") as progress:
        result = attribute(
            model,
            options.run,
            text,
            parts=options.parts,
            top=options.top,
            out=out,
            progress=progress,
        )
    listed = options.run if out == options.run / "attribution" else None
    show(result, f"Figures: {out / 'attribution.json'}", run=listed)
    say(next_step(options.run))
