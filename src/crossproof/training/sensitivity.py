"""How much the model's loss depends on each direction of an MLP's output."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.activations.positions import scored_positions
from crossproof.lm import Hookpoints, LanguageModel

SEQUENCES = 256
"""Training sequences whose gradients are averaged."""


def sensitivity_metrics(
    model: LanguageModel, hookpoints: Hookpoints, sequences: Int[Tensor, "S T"], share: float = 0.5
) -> dict[int, Float[Tensor, "D D"]]:
    """A factor A of the norm ‖yA‖ for errors of each MLP's output, by hookpoint index of its input.

    A Aᵀ = share · C D / tr C + (1 - share) · I, where C is the second moment of the loss's
    gradients at the MLP's output (the empirical Fisher matrix): an error y raises the loss by
    about ½ yᵀ C y. `sequences` must be training text.
    """
    blocks = hookpoints.mlp_blocks
    names = [f"blocks.{block}.mlp.hook_out" for block in blocks]
    width = model.d_model
    moments = torch.zeros(len(blocks), width, width, dtype=torch.float64, device=model.device)
    for tokens in sequences[:SEQUENCES].split(16):
        scored = scored_positions(tokens, model.special_ids).to(model.device)
        gradients = model.loss_gradients(tokens, names)[scored].double()
        moments += torch.einsum("bpd,bpe->pde", gradients, gradients)
    metrics = {}
    for block, moment in zip(blocks, moments, strict=True):
        place = hookpoints.blocks[block].mlp_in
        identity = torch.eye(width, dtype=torch.float64, device=model.device)
        mixed = share * moment * width / moment.trace() + (1 - share) * identity
        values, vectors = torch.linalg.eigh(mixed)
        if place is not None:
            metrics[place] = (vectors * values.clamp_min(0).sqrt()).to(model.dtype)
    return metrics
