"""Training the bundled GPT-Neo: a lean forward pass, Muon + AdamW, resumable."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from models.pretraining import (
    check_lean_logits,
    held_out_loss,
    next_token_loss,
    optimisers,
    schedule,
    update,
)

from . import text
from .files import replace_file


@dataclass(frozen=True)
class BundledModelConfig:
    """What the bundled model is and how it is trained."""

    steps: int = 3600
    """Optimiser steps."""
    batch: int = 32
    """Sequences a step."""
    context: int = 256
    """Tokens a sequence."""
    vocabulary: int = 2048
    """Tokens of the byte-level BPE tokenizer."""
    d_model: int = 128
    """Width of the residual stream; the MLPs have four times as many neurons."""
    blocks: int = 4
    """Transformer blocks."""
    heads: int = 4
    """Attention heads a block."""
    seed: int = 0
    """Seed of initialisation, prompts and data order."""
    threads: int = 2
    """CPU threads; the result depends on their number, in the last bits."""
    muon_lr: float = 0.02
    """Learning rate of the hidden matrices (Muon)."""
    adam_lr: float = 3e-3
    """Learning rate of embeddings, biases and norms (AdamW)."""
    checkpoint_every: int = 250
    """Steps between checkpoints and held-out evaluations."""
    max_stories: int = 200_000
    """The corpus is cut to its first stories: enough for one epoch of the default steps."""
    compile: bool = True
    """Compile the training step (worth it after a few hundred steps)."""


def build(config: BundledModelConfig) -> GPTNeoForCausalLM:
    """A fresh model of the TinyStories family's architecture."""
    torch.manual_seed(config.seed)
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=config.vocabulary,
            max_position_embeddings=config.context,
            hidden_size=config.d_model,
            num_layers=config.blocks,
            attention_types=[[["global"], config.blocks]],
            num_heads=config.heads,
            intermediate_size=4 * config.d_model,
            activation_function="gelu_new",
            resid_dropout=0.0,
            embed_dropout=0.0,
            attention_dropout=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def save_checkpoint(
    folder: Path, model: GPTNeoForCausalLM, opts: list[torch.optim.Optimizer], step: int
) -> None:
    """Weights, optimiser state and step in one file, replaced atomically."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    for i, opt in enumerate(opts):
        for p, state in opt.state_dict()["state"].items():
            tensors |= {f"opt.{i}.{p}.{k}": torch.as_tensor(v) for k, v in state.items()}
    contiguous = {k: v.contiguous() for k, v in tensors.items()}
    replace_file(
        folder / "state.safetensors", lambda path: save_file(contiguous, path, {"step": str(step)})
    )


def load_checkpoint(
    folder: Path, model: GPTNeoForCausalLM, opts: list[torch.optim.Optimizer]
) -> int:
    """Restores what `save_checkpoint` wrote; returns the step to go on from (0 if none)."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as handle:
        step = int(handle.metadata()["step"])
    tensors = load_file(path)
    weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
    model.load_state_dict(weights, strict=False)
    for i, opt in enumerate(opts):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"opt.{i}."):
                _, _, p, name = key.split(".", 3)
                state.setdefault(int(p), {})[name] = value
        opt.load_state_dict({**opt.state_dict(), "state": state})
    return step


def train(config: BundledModelConfig, corpus: str, folder: Path) -> GPTNeoForCausalLM:
    """Trains (or goes on training) the model; progress on standard output and in log.txt."""
    torch.set_num_threads(config.threads)
    stories, held_out = text.split_stories(text.read_stories(corpus, config.max_stories))
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.exists():
        text.train_tokenizer(stories, config.vocabulary, config.seed).save(str(tokenizer_path))
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    stream = text.pack(tokenizer, held_out)
    windows = torch.from_numpy(
        stream[: len(stream) // config.context * config.context].reshape(-1, config.context)
    )

    model = build(config)
    check_lean_logits(model, windows[:2])
    opts = optimisers(model, config.muon_lr, config.adam_lr)
    start = load_checkpoint(folder, model, opts)
    step_loss = torch.compile(next_token_loss) if config.compile else next_token_loss
    batches = itertools.islice(
        text.epochs(tokenizer, stories, config.batch, config.context, config.seed),
        start,
        config.steps,
    )
    began, log = time.time(), (folder / "log.txt").open("a")
    for step, batch in enumerate(batches, start):
        loss = step_loss(model, torch.from_numpy(batch))
        update(model, opts, loss, schedule(step, config.steps))
        last = step + 1 == config.steps
        saving = last or (step + 1) % config.checkpoint_every == 0
        if saving or (step + 1) % 50 == 0:
            speed = (step + 1 - start) * batch.size / (time.time() - began)
            line = f"step {step + 1}/{config.steps}  loss {loss.item():.4f}  {speed:,.0f} tokens/s"
            if saving:
                save_checkpoint(folder, model, opts, step + 1)
                line += f"  held-out {held_out_loss(model, windows):.4f}"
            print(line, flush=True)
            print(line, file=log, flush=True)
    return model
