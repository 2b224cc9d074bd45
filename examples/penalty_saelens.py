"""crossproof's penalty inside SAELens's trainer: a residual SAE with and without it.

    python examples/penalty_saelens.py --out /path/to/saes

SAELens's training step adds up what `calculate_aux_loss` returns, so a subclass that returns one
term more is all that is needed. Figures: docs/extending/penalty.md. Needs crossproof and
sae-lens (6.54) in one environment.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import tyro
from penalty_figures import BLOCK, HOOKPOINT, Settings, batches, compare
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata

import crossproof
from crossproof import MLPPenalty, Objective


class PenalisedSAE(TopKTrainingSAE):
    """SAELens's TopK SAE, whose batches hold the MLP's stream beside the activations."""

    penalty: MLPPenalty | None = None
    stream: torch.Tensor
    unit: float = 1.0
    """The variance of the activations, which SAELens's error is not divided by."""

    def training_forward_pass(self, step_input: Any) -> Any:
        x, self.stream = step_input.sae_in.chunk(2, dim=1)
        return super().training_forward_pass(replace(step_input, sae_in=x))

    def calculate_aux_loss(
        self, step_input: Any, feature_acts: Any, hidden_pre: Any, sae_out: Any
    ) -> dict[str, torch.Tensor]:
        losses = super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out)
        if self.penalty is None:
            return losses
        norms = self.W_dec.norm(dim=1)  # `rescale_acts_by_decoder_norm`: codes are in its units
        term = self.penalty.in_stream(
            feature_acts / norms, self.W_dec, self.stream, error=step_input.sae_in - sae_out
        )
        return losses | {"mlp_penalty": self.unit * term}


def train(
    model: crossproof.LanguageModel, settings: Settings, strength: float, seed: int, out: Path
) -> Path:
    """Trains one SAE by SAELens's own trainer; the folder that it saved."""
    torch.manual_seed(seed)
    data: Iterator[torch.Tensor] = batches(model, settings, seed)
    first = next(data)[:, : model.d_model]
    metadata = SAEMetadata(
        hook_name=HOOKPOINT,
        model_from_pretrained_kwargs={},
        model_class_name="AutoModelForCausalLM",
    )
    config = TopKTrainingSAEConfig(
        d_in=model.d_model, d_sae=settings.n_latents, k=settings.k, metadata=metadata
    )
    sae = PenalisedSAE(config)
    sae.b_dec.data = first.mean(0)
    sae.unit = float(first.var(0).sum())
    if strength:
        sae.penalty = MLPPenalty.of(model, BLOCK, Objective(keep_largest=strength))
    options = SAETrainerConfig(
        total_training_samples=settings.steps * settings.batch,
        train_batch_size_samples=settings.batch,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate / 10,
        lr_decay_steps=settings.steps // 4,
    )
    SAETrainer(options, sae, data).fit()
    sae.save_inference_model(out)
    return out


if __name__ == "__main__":
    compare(tyro.cli(Settings), train, "SAELens")
