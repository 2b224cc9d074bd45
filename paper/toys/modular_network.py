"""A one-layer transformer that adds modulo p, as a model folder and a token file like any other.

A sequence is "a b = c": tokens a, b, p and (a + b) mod p. The network is trained on a part of the
p² pairs to predict c at "="; the rest is held out. The numbers are marked as end-of-sequence
tokens in the model's configuration, because such positions are not scored: what is harvested,
trained on and measured is "=" alone, where the answer is computed.

Unlike the network in the paper it has layer norms and learned biases: it is a GPT-Neo, so that
`load_model`, harvest, training and evaluation take it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from crossproof.files import read_json, write_json
from crossproof.lm import quiet
from models.pretraining import lean_logits, shuffled

TOKENS = "tokens.safetensors"
EQUALS_AT = 2
"""The position of "=", where the answer is computed."""
TRAINING = "training.json"
"""What the network's folder says of its training."""


@dataclass(frozen=True)
class ModularNetworkConfig:
    """The network and its training."""

    p: int = 113
    train_share: float = 0.7
    """Of the pairs; the rest is held out."""
    d_model: int = 64
    heads: int = 4
    neurons: int = 256
    steps: int = 500
    batch: int = 2048
    """Pairs a step, drawn without replacement."""
    lr: float = 1e-3
    warmup: int = 10
    """Steps over which the learning rate rises."""
    decay: float = 0.3
    """Fraction of the steps, at the end, over which it falls to zero."""
    weight_decay: float = 1.0
    seed: int = 0
    """Of the weights and of the order of pairs; not of the split, so that networks of different
    seeds are measured on the same held-out pairs."""

    def architecture(self) -> GPTNeoConfig:
        """One block, ReLU, the output layer apart from the embedding."""
        return GPTNeoConfig(
            vocab_size=self.p + 1,
            max_position_embeddings=4,
            hidden_size=self.d_model,
            num_layers=1,
            attention_types=[[["global"], 1]],
            num_heads=self.heads,
            intermediate_size=self.neurons,
            activation_function="relu",
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=list(range(self.p)),
        )


def all_pairs(p: int) -> Int[Tensor, "pairs 4"]:
    """Every sequence a, b, =, c; that of a, b in row a p + b."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    equals = torch.full((p * p, 1), p)
    return torch.cat([pairs, equals, pairs.sum(1, keepdim=True) % p], dim=1)


def splits(recipe: ModularNetworkConfig) -> dict[str, Int[Tensor, "S 4"]]:
    """The sequences that the network is trained on, and those that it is not."""
    order = torch.randperm(recipe.p**2, generator=torch.Generator().manual_seed(0))
    train = round(recipe.train_share * len(order))
    sequences = all_pairs(recipe.p)
    return {"train": sequences[order[:train]], "held_out": sequences[order[train:]]}


def answers(model: GPTNeoForCausalLM, sequences: Int[Tensor, "S 4"]) -> Float[Tensor, "S V"]:
    """The network's logits at "=", by the lean forward pass."""
    return lean_logits(model, sequences[:, : EQUALS_AT + 1], last_only=True)[:, 0]


def train(
    recipe: ModularNetworkConfig, say: Callable[[str], None] = lambda _: None
) -> GPTNeoForCausalLM:
    """Trains the network by AdamW; `say` gets progress lines.

    The same recipe and number of threads give the same weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = GPTNeoForCausalLM(recipe.architecture())
    adam = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    batches = shuffled(splits(recipe)["train"], recipe.batch, recipe.seed)
    for step, rows in zip(range(recipe.steps), batches, strict=False):
        fall = (recipe.steps - step) / (recipe.decay * recipe.steps)
        for group in adam.param_groups:
            group["lr"] = recipe.lr * min(1.0, (step + 1) / recipe.warmup, fall)
        loss = cross_entropy(answers(model, rows), rows[:, -1])
        loss.backward()
        adam.step()
        adam.zero_grad()
        if (step + 1) % 200 == 0:
            say(f"network {recipe.seed}: step {step + 1} of {recipe.steps}, loss {loss.item():.4f}")
    model.eval()
    return model


@torch.no_grad()
def score(model: GPTNeoForCausalLM, sequences: Int[Tensor, "S 4"]) -> dict[str, float]:
    """Accuracy, and cross-entropy in nats."""
    logits, labels = answers(model, sequences), sequences[:, -1]
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return {"accuracy": accuracy, "loss": cross_entropy(logits, labels).item()}


def save(
    folder: Path, recipe: ModularNetworkConfig, say: Callable[[str], None] = lambda _: None
) -> None:
    """Trains the network into a folder that `load_model` reads, its sequences beside it.

    training.json says how it was trained, its accuracy and its loss on both splits.
    """
    model, rows = train(recipe, say), splits(recipe)
    facts = {"recipe": asdict(recipe)} | {name: score(model, own) for name, own in rows.items()}
    with quiet():
        model.save_pretrained(folder)
    packed = {name: own.to(torch.int16).contiguous() for name, own in rows.items()}
    save_file(packed, folder / TOKENS)
    write_json(folder / TRAINING, facts)


def training(folder: Path) -> dict[str, Any]:
    """What `save` wrote of a network's training."""
    return read_json(folder / TRAINING)
