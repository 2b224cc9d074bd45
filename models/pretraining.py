"""Training small causal language models from scratch: Muon + AdamW, one schedule.

The bundled model and the models of several sizes and families (`paper.toys.zoo`) share it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPTNeoForCausalLM, PreTrainedModel

from crossproof import CrossproofError
from crossproof.lm import Activation

WARMUP = 100
CLIP = 1.0


def fast_logits(model: PreTrainedModel, tokens: Int[Tensor, "S T"]) -> Float[Tensor, "S T V"]:
    """The model's logits, by `lean_logits` where that is the faster way."""
    if isinstance(model, GPTNeoForCausalLM):
        return lean_logits(model, tokens)
    output: Any = model(input_ids=tokens, use_cache=False)
    logits: Tensor = output.logits
    return logits


def lean_logits(
    model: GPTNeoForCausalLM, tokens: Int[Tensor, "S T"], last_only: bool = False
) -> Float[Tensor, "S positions V"]:
    """The model's logits by fused attention: 2.7 times the library's speed on CPUs.

    Hugging Face's GPT-Neo attends in eager mode only; this is the same function of the same
    weights (GPT-Neo does not scale its scores), for global attention; `check_lean_logits` compares
    them. With `last_only`, logits [S, 1, V] of the last position, whose last block costs 1/T.
    """
    trunk: Any = model.transformer
    activation = Activation.from_name(model.config.activation_function)
    hidden = trunk.wte(tokens) + trunk.wpe.weight[: tokens.shape[1]]
    batch, length, width = hidden.shape
    heads = model.config.num_heads
    for number, block in enumerate(trunk.h, 1):
        attention, normed = block.attn.attention, block.ln_1(hidden)
        only = slice(-1, None) if last_only and number == len(trunk.h) else slice(None)
        q, k, v = (
            projected.view(batch, -1, heads, width // heads).transpose(1, 2)
            for projected in (
                attention.q_proj(normed[:, only]),
                attention.k_proj(normed),
                attention.v_proj(normed),
            )
        )
        causal = q.shape[2] == length
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)
        mixed = mixed.transpose(1, 2).reshape(batch, -1, width)
        hidden = hidden[:, only] + attention.out_proj(mixed)
        inner = activation(block.mlp.c_fc(block.ln_2(hidden)))
        hidden = hidden + block.mlp.c_proj(inner)
    return F.linear(trunk.ln_f(hidden), model.get_output_embeddings().weight)


@torch.no_grad()
def check_lean_logits(model: GPTNeoForCausalLM, tokens: Int[Tensor, "S T"]) -> None:
    """Raises CrossproofError if `lean_logits` is not the library's forward pass."""
    error = (lean_logits(model, tokens) - model(input_ids=tokens).logits).abs().max().item()
    if error > 1e-4:
        raise CrossproofError(
            f"The lean forward pass of GPT-Neo is off by {error:.1e}: use a version of "
            f"transformers whose GPT-Neo it follows (5.9)."
        )


def next_token_loss(model: PreTrainedModel, tokens: Int[Tensor, "S T"]) -> Float[Tensor, ""]:
    """Mean cross-entropy of the next token, in nats."""
    logits = fast_logits(model, tokens)[:, :-1]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, windows: Int[Tensor, "S T"]) -> float:
    """Mean next-token loss over the windows, in nats per token."""
    losses = [next_token_loss(model, chunk).item() * len(chunk) for chunk in windows.split(32)]
    return sum(losses) / len(windows)


def optimisers(
    model: PreTrainedModel, muon_lr: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for everything else.

    Raises CrossproofError before PyTorch 2.9, which has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise CrossproofError(
            f"Training a language model takes PyTorch 2.9 or later, which has the Muon optimiser; "
            f"this is {torch.__version__}."
        )
    named = dict(model.named_parameters())
    matrices = {n for n, p in named.items() if re.search(r"\.\d+\.", n) and p.ndim == 2}
    hidden = [p for n, p in named.items() if n in matrices]
    others = [p for n, p in named.items() if n not in matrices]
    both = [
        torch.optim.Muon(hidden, lr=muon_lr, weight_decay=0.02, momentum=0.95),
        torch.optim.AdamW(others, lr=adam_lr, weight_decay=0.0, fused=True),
    ]
    for optimiser in both:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return both


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: 100 steps of warm-up, then a cosine to 2%."""
    warm = min(1.0, (step + 1) / WARMUP)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def update(
    model: PreTrainedModel, opts: list[torch.optim.Optimizer], loss: Tensor, factor: float
) -> None:
    """One step down the loss's gradient, at `factor` times the initial learning rates."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = group["initial_lr"] * factor
        opt.step()
        opt.zero_grad()


def shuffled(rows: Int[Tensor, "S T"], batch: int, seed: int) -> Iterator[Int[Tensor, "batch T"]]:
    """Endless batches without replacement, in a new order every epoch."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    while True:
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        yield rows[order[:batch]]
        order = order[batch:]
