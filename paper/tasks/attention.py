"""The largest of a few tokens, by one layer of attention (the task of arXiv 2406.11779).

No MLP, no biases, no norms, one head; the answer is read at the last position. Half of every batch
has tokens up to a random one only, so that small maxima, which uniform draws hardly contain, are
learned too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from crossproof.crosscoder import Crosscoder, CrosscoderConfig
from crossproof.lm import Hookpoints
from crossproof.proof.bounds import AttentionNetwork, SequenceDomain
from crossproof.training import Objective, Optimisation, Trainer

HOOKPOINT = "blocks.0.hook_resid_pre"


@dataclass(frozen=True)
class LargestRecipe:
    """How a network and a dictionary of its residual stream are trained."""

    tokens: int = 64
    """V."""
    length: int = 4
    """C."""
    width: int = 32
    """D, of the stream."""
    head: int = 32
    """A, of the head."""
    steps: int = 3000
    batch: int = 256
    lr: float = 2e-3
    latents: int = 128
    """H, of the dictionary."""
    k: int = 4
    """Active latents of a token at a position (exactly; TopK)."""
    dictionary_steps: int = 4000
    optimisation: Optimisation = field(default_factory=lambda: Optimisation(lr=3e-3, decay=0.5))


def draw_weights(recipe: LargestRecipe, seed: int) -> AttentionNetwork:
    """Gaussian weights; the scale of the scores is part of W_Q from the start."""
    generator = torch.Generator().manual_seed(seed)
    V, C, D, A = recipe.tokens, recipe.length, recipe.width, recipe.head

    def draw(rows: int, columns: int, size: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * size

    return AttentionNetwork(
        W_E=draw(V, D, D**-0.5),
        W_pos=draw(C, D, D**-0.5),
        W_Q=draw(D, A, D**-0.5),
        W_K=draw(D, A, D**-0.5),
        W_V=draw(D, A, D**-0.5),
        W_O=draw(A, D, A**-0.5),
        W_U=draw(D, V, D**-0.5),
    )


def draw_sequences(recipe: LargestRecipe, generator: torch.Generator) -> Tensor:
    """A batch of sequences [B, C]: half uniform, half with tokens up to a random one."""
    half = recipe.batch // 2
    tokens = torch.randint(recipe.tokens, (recipe.batch, recipe.length), generator=generator)
    most = torch.randint(recipe.tokens, (half, 1), generator=generator)
    share = torch.rand(half, recipe.length, generator=generator)
    tokens[:half] = (share * (most + 1)).long()
    return tokens


def train(
    recipe: LargestRecipe, seed: int, watch: Callable[[int, float], None] | None = None
) -> tuple[AttentionNetwork, SequenceDomain]:
    """Adam on fresh sequences; weights are rounded to float32 and returned in float64."""
    weights = {name: t.requires_grad_() for name, t in draw_weights(recipe, seed).tensors().items()}
    generator = torch.Generator().manual_seed(1_000_003 + seed)
    adam = torch.optim.Adam(weights.values(), lr=recipe.lr, betas=(0.9, 0.98))
    scale = recipe.head**-0.5
    for step in range(recipe.steps):
        for group in adam.param_groups:
            fall = (recipe.steps - step) / (0.3 * recipe.steps)
            group["lr"] = recipe.lr * min(1.0, (step + 1) / 100, fall)
        tokens = draw_sequences(recipe, generator)
        loss = cross_entropy(_scaled(weights, scale).logits(tokens), tokens.amax(dim=1))
        adam.zero_grad()
        loss.backward()
        adam.step()
        if watch is not None:
            watch(step, loss.item())
    network = _scaled({name: t.detach() for name, t in weights.items()}, scale)
    return network.double(), SequenceDomain(torch.arange(recipe.tokens))


def _scaled(weights: dict[str, Tensor], scale: float) -> AttentionNetwork:
    return AttentionNetwork(**weights | {"W_Q": weights["W_Q"] * scale})


def learn(network: AttentionNetwork, recipe: LargestRecipe, seed: int) -> Crosscoder:
    """A one-hookpoint crosscoder of the residual stream, at every token and position alike."""
    config = CrosscoderConfig(recipe.latents, "topk", recipe.k)
    hookpoints = Hookpoints.from_names([HOOKPOINT], n_blocks=1)
    crosscoder = Crosscoder(config, hookpoints, network.W_E.shape[1])
    streams = network.streams().flatten(0, 1).float()[:, None]
    crosscoder.initialise(streams, seed)
    steps = recipe.dictionary_steps
    trainer = Trainer(crosscoder, {}, Objective(), recipe.optimisation, steps, seed)
    for _ in range(steps):
        trainer.step(streams)
    crosscoder.fold()
    return crosscoder.requires_grad_(False)
