"""crossproof's penalty inside dictionary_learning's trainer: a residual SAE with and without it.

    python examples/penalty_dictionary_learning.py --out /path/to/saes

A trainer of dictionary_learning is a class with a `loss`; this one adds a term to it. Figures:
docs/extending/penalty.md. Needs crossproof and dictionary-learning (0.1.0) in one environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE
from penalty_figures import BLOCK, HOOKPOINT, Settings, batches, compare

import crossproof
from crossproof import MLPPenalty, Objective


class RememberingSAE(AutoEncoderTopK):
    """The library's SAE, which keeps its last code: the loss hands out a number alone."""

    code: torch.Tensor

    def encode(self, x: torch.Tensor, **options: Any) -> Any:
        result = super().encode(x, **options)
        self.code = result[0] if isinstance(result, tuple) else result
        return result


class PenalisedTrainer(TopKTrainer):
    """The library's TopK trainer, whose batches hold the MLP's stream beside the activations."""

    def __init__(self, penalty: MLPPenalty | None, **options: Any) -> None:
        super().__init__(dict_class=RememberingSAE, **options)
        self.penalty, self.stream, self.unit = penalty, None, 1.0

    def update(self, step: int, x: torch.Tensor) -> float:
        x, self.stream = x.chunk(2, dim=1)
        if step == 0:
            self.unit = float(x.var(0).sum())  # the library's error is not divided by it
        return super().update(step, x)

    def loss(self, x: torch.Tensor, step: int | None = None, logging: bool = False) -> Any:
        loss = super().loss(x, step, logging)
        if self.penalty is None or logging:
            return loss
        code, decoder = self.ae.code, self.ae.decoder.weight.T
        error = x - self.ae.decode(code)
        return loss + self.unit * self.penalty.in_stream(code, decoder, self.stream, error)


def train(
    model: crossproof.LanguageModel, settings: Settings, strength: float, seed: int, out: Path
) -> Path:
    """Trains one SAE by dictionary_learning's own loop; the folder that it saved."""
    penalty = None
    if strength:
        penalty = MLPPenalty.of(model, BLOCK, Objective(keep_largest=strength))
    data: Iterator[torch.Tensor] = batches(model, settings, seed)
    config = {
        "trainer": PenalisedTrainer,
        "penalty": penalty,
        "activation_dim": model.d_model,
        "dict_size": settings.n_latents,
        "k": settings.k,
        "lr": settings.learning_rate,
        "steps": settings.steps,
        "warmup_steps": 0,
        "decay_start": settings.steps * 3 // 4,
        "seed": seed,
        "layer": 0,
        "lm_name": "bundled",
        "submodule_name": HOOKPOINT,
        "device": "cpu",
    }
    trainSAE(data, [config], settings.steps, save_dir=str(out), device="cpu")
    return out / "trainer_0"


if __name__ == "__main__":
    compare(tyro.cli(Settings), train, "dictionary_learning")
