"""The configuration of a run and the recipes that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from crossproof.crosscoder.model import CrosscoderConfig
from crossproof.training.objectives import Objective
from crossproof.training.trainer import Optimisation

LOOKED_AT = 864
"""Held-out sequences of the bundled text that were looked at while recipes were made."""


@dataclass(frozen=True)
class RunConfig:
    """A training run: an unpenalised and a penalised crosscoder on the same batches."""

    model: str = "bundled"
    """`bundled`, a local Hugging Face folder, or a Hub id; BASE+ADAPTER merges an adapter, and
    MODEL,MODEL trains on two models at once (model diffing)."""
    text: str = "bundled"
    """`bundled`, a .txt, .jsonl, .npy or .safetensors file, or hf:NAME for a Hub dataset."""
    hookpoints: tuple[str, ...] = ()
    """Hookpoint names or globs in TransformerLens spelling; none: the standard set."""
    context: int = 256
    """Tokens a sequence."""
    crosscoder: CrosscoderConfig = field(default_factory=CrosscoderConfig)
    objective: Objective = field(default_factory=Objective)
    """Of the penalised crosscoder; leave empty to train the unpenalised one alone."""
    optimisation: Optimisation = field(default_factory=Optimisation)
    baseline: bool = True
    """Train the unpenalised crosscoder too, with the same seed on the same batches."""
    steps: int = 1000
    """Optimiser steps."""
    batch_tokens: int = 1024
    """Tokens a step."""
    buffer_batches: int = 32
    """Batches that are harvested and shuffled together."""
    seed: int = 0
    """Fixes data order, initialisation and training."""
    threads: int = 0
    """CPU threads; 0 leaves PyTorch's choice. Equal bytes need equal thread counts."""
    device: str = "cpu"
    """cpu, or any other device PyTorch knows (only CPUs have been tried)."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    log_every: int = 25
    """Steps between lines of metrics.jsonl."""
    evaluation_sequences: int = 64
    """Held-out sequences the finished crosscoders are evaluated on."""
    evaluation_skip: int | None = None
    """Held-out sequences that are passed over before, as already looked at; by default those of
    the bundled text that recipes were judged on, and none of any other text."""

    def objectives(self) -> dict[str, Objective]:
        """The crosscoders to train, by name."""
        runs = {"unpenalised": Objective()} if self.baseline or not self.penalised else {}
        return runs | ({"penalised": self.objective} if self.penalised else {})

    @property
    def skipped(self) -> int:
        """How many held-out sequences are passed over."""
        if self.evaluation_skip is not None:
            return self.evaluation_skip
        return LOOKED_AT if self.text == "bundled" else 0

    @property
    def penalised(self) -> bool:
        """Whether the objective has any term beside reconstruction."""
        return bool(self.objective.strengths())


DEMO = RunConfig(
    crosscoder=CrosscoderConfig(n_latents=1024, k=16),
    objective=Objective(transition=200.0, all_latents=50.0, interaction=5.0),
    optimisation=Optimisation(penalty_share=0.5, penalty_delay=0.25),
    steps=850,
    batch_tokens=1024,
    evaluation_sequences=48,
)

FULL = replace(
    DEMO,
    crosscoder=CrosscoderConfig(n_latents=4096, k=16),
    steps=1500,
    evaluation_sequences=192,
)

PAPER = replace(FULL, objective=Objective(interaction=100.0))

RECIPES: dict[str, RunConfig] = {"demo": DEMO, "full": FULL, "paper": PAPER}
"""demo: a few minutes on two cores; full: the published figures; paper: the paper's penalty."""
