"""Dictionaries of a toy network's inputs, and how they are learned."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.errors import CrossproofError
from crossproof.lm import Activation, Hookpoints, MLPWeights
from crossproof.proof.bounds import Network, SparseDomain
from crossproof.training import Objective, Optimisation, Trainer

HOOKPOINT = "blocks.0.mlp.hook_in"
SAMPLE = 4096
"""Points from which a dictionary is initialised."""


@dataclass(frozen=True)
class DictionaryRecipe:
    """How a dictionary is learned."""

    latents: int
    """H."""
    k: int
    """Active latents a point (exactly; TopK)."""
    objective: Objective = field(default_factory=Objective)
    steps: int = 3000
    batch: int = 512
    """Points a step, drawn afresh."""
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(lr=3e-3, decay=0.5))


def network_mlp(network: Network) -> MLPWeights:
    """The network's MLP as `crossproof.lm` sees one, writing logits less their mean over classes.

    A margin does not see what all classes share, so neither does ‖o_n‖. Outputs are padded with
    zeros to the width D of the input. Raises CrossproofError if there are more classes than that.
    """
    width, classes = network.skip.shape
    if classes > width:
        raise CrossproofError(
            f"This network has {classes} classes and inputs of width {width}: penalties need an "
            f"input at least as wide as the output."
        )
    W_out = network.W_out - network.W_out.mean(1, keepdim=True)
    b_out = network.b_out - network.b_out.mean()
    pad = torch.nn.functional.pad
    extra = (0, width - classes)
    return MLPWeights(
        network.W_in, network.b_in, pad(W_out, extra), pad(b_out, extra), Activation.RELU
    )


def learn(
    network: Network, domain: SparseDomain, recipe: DictionaryRecipe, seed: int
) -> Crosscoder:
    """A one-hookpoint crosscoder at the MLP's input, trained on points drawn from the domain."""
    generator = torch.Generator().manual_seed(seed)
    config = CrosscoderConfig(recipe.latents, "topk", recipe.k)
    hookpoints = Hookpoints.from_names([HOOKPOINT], n_blocks=1)
    crosscoder = Crosscoder(config, hookpoints, network.skip.shape[0])

    def batch(count: int) -> Tensor:
        return domain.inputs(domain.sample(count, generator)[0]).float()[:, None]

    crosscoder.initialise(batch(SAMPLE), seed)
    mlps = {0: network_mlp(network).to(dtype=torch.float32)}
    trainer = Trainer(crosscoder, mlps, recipe.objective, recipe.optimisation, recipe.steps, seed)
    for _ in range(recipe.steps):
        trainer.step(batch(recipe.batch))
    crosscoder.fold()
    return crosscoder.requires_grad_(False)
