# %% [markdown]
# # The penalty in SAELens
#
# You train SAEs with SAELens and want to keep doing so. SAELens adds up whatever a training SAE's
# `calculate_aux_loss` returns, so crossproof's penalty goes in by a subclass of ten lines. This
# needs both packages in one environment: `pip install crossproof sae-lens`.

# %%
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata

import crossproof
from crossproof import MLPPenalty, Objective

model = crossproof.load_model("bundled")
HOOKPOINT, BLOCK = "blocks.0.hook_resid_post", 1  # the SAE's place, and the MLP that reads it

# %% [markdown]
# ## Activations
#
# The penalty asks what block 1's MLP makes of each latent, and that MLP reads the stream *through
# its norm*. So it needs, beside the SAE's activations, what the norm reads at the same tokens. Each
# batch holds both, side by side.

# %%
tokens = crossproof.read_sequences("bundled", model, 128, split="train")
places = model.hookpoints([HOOKPOINT])
harvest = crossproof.Harvest(
    model, tokens, places, batch_tokens=512, buffer_batches=8, also=[f"blocks.{BLOCK}.ln2.hook_in"]
)


def batches() -> Iterator[torch.Tensor]:
    """Batches [512, 2 d_model]: the SAE's activations, and the stream before the MLP's norm."""
    for batch in harvest:
        yield batch.flatten(1)


# %% [markdown]
# ## The subclass
#
# `training_forward_pass` takes the stream off the batch; `calculate_aux_loss` adds the term.
# Latents and decoder must be in one unit: SAELens rescales TopK codes by the decoder's norms, so we
# divide them by these again.


# %%
class PenalisedSAE(TopKTrainingSAE):
    """SAELens's TopK SAE with crossproof's penalty."""

    penalty: MLPPenalty | None = None
    stream: torch.Tensor
    unit: float = 1.0

    def training_forward_pass(self, step_input: Any) -> Any:
        x, self.stream = step_input.sae_in.chunk(2, dim=1)
        return super().training_forward_pass(replace(step_input, sae_in=x))

    def calculate_aux_loss(
        self, step_input: Any, feature_acts: Any, hidden_pre: Any, sae_out: Any
    ) -> dict[str, torch.Tensor]:
        losses = super().calculate_aux_loss(step_input, feature_acts, hidden_pre, sae_out)
        if self.penalty is None:
            return losses
        codes = feature_acts / self.W_dec.norm(dim=1)
        error = step_input.sae_in - sae_out
        term = self.penalty.in_stream(codes, self.W_dec, self.stream, error=error)
        return losses | {"mlp_penalty": self.unit * term}


# %% [markdown]
# `unit` is the variance of the activations: SAELens's error is not divided by it, crossproof's
# penalty is, and a strength should mean the same in both.
#
# ## Train both
#
# `Objective(keep_largest=0.3)` is the exact error of keeping one latent a neuron, at three tenths
# of the reconstruction's weight. Everything else is SAELens's own.


# %%
def trained(strength: float) -> PenalisedSAE:
    """An SAE of SAELens's own trainer."""
    torch.manual_seed(0)
    data = batches()
    first = next(data)[:, : model.d_model]
    metadata = SAEMetadata(
        hook_name=HOOKPOINT,
        model_from_pretrained_kwargs={},
        model_class_name="AutoModelForCausalLM",
    )
    sae = PenalisedSAE(
        TopKTrainingSAEConfig(d_in=model.d_model, d_sae=512, k=16, metadata=metadata)
    )
    sae.b_dec.data = first.mean(0)
    sae.unit = float(first.var(0).sum())
    if strength:
        sae.penalty = MLPPenalty.of(model, BLOCK, Objective(keep_largest=strength))
    steps = 150
    settings = SAETrainerConfig(
        total_training_samples=512 * steps,
        train_batch_size_samples=512,
        lr=1e-3,
        lr_end=1e-4,
        lr_decay_steps=steps // 4,
    )
    SAETrainer(settings, sae, data).fit()
    return sae


for name, strength in {"plain": 0.0, "penalised": 0.3}.items():
    trained(strength).save_inference_model(f"saes/{name}")
    print("saved", f"saes/{name}")

# %% [markdown]
# ## Compare
#
# SAELens saved them; crossproof reads them back and asks the language model.

# %%
text = crossproof.read_sequences("bundled", model, 128, split="held_out")[:24]
for name in ("plain", "penalised"):
    sae, _ = crossproof.import_dictionary(f"saes/{name}", model)
    figures = crossproof.evaluate(model, sae, text)
    keep = figures.fidelity("keep-largest")
    print(f"{name:10s} Φ(keep-largest) {keep.mean:.3f}")

# %% [markdown]
# Figures over seeds, and the same for dictionary_learning:
# [the penalty in your own trainer](../extending/penalty.md).
