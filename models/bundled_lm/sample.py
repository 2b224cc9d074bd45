"""Sampling the corpus from the trained model, in shards, so that it can be interrupted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPTNeoForCausalLM

from .decoder import Decoder
from .files import replace_file


@dataclass(frozen=True)
class SampleConfig:
    """How much is sampled, and how."""

    train: int = 16_384
    """Rows of the training split."""
    validation: int = 1_024
    """Rows of the validation split."""
    held_out: int = 2_048
    """Rows of the held-out split."""
    seed: int = 0
    """Seed of the draws; every row's draws depend on it, the split and the shard only."""
    shard: int = 512
    """Rows decoded at once; a finished shard is never sampled again."""
    threads: int = 2
    """CPU threads."""

    def splits(self) -> dict[str, int]:
        """Rows by split, in the order of sampling."""
        return {"train": self.train, "validation": self.validation, "held_out": self.held_out}


def fingerprint(model: GPTNeoForCausalLM) -> str:
    """sha256 over the names and bytes of the weights as float16 (the output layer is tied)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name != "lm_head.weight":
            digest.update(name.encode())
            digest.update(tensor.half().numpy().tobytes())
    return digest.hexdigest()


def sample_rows(
    decoder: Decoder, uniforms: Tensor, prompt: list[int], temperature: float = 1.0
) -> Tensor:
    """One row of tokens [rows, T] per column of `uniforms` [T, rows], each starting with `prompt`.

    Tokens come from the inverse distribution function of softmax(logits / temperature), so that
    the same model and the same uniform numbers give the same text. Raises ValueError if the prompt
    is empty or longer than T.
    """
    decoder.restart()
    length, rows = uniforms.shape
    if not 0 < len(prompt) <= length:
        raise ValueError(f"A prompt of {len(prompt)} tokens does not fit in rows of {length}.")
    tokens = torch.empty((rows, length), dtype=torch.int64)
    tokens[:, : len(prompt)] = torch.tensor(prompt)
    for position in range(length - 1):
        logits = decoder.step(tokens[:, position])
        if position + 1 >= len(prompt):
            cdf = (logits / temperature).softmax(-1).cumsum_(-1)
            drawn = uniforms[position + 1, :, None] * cdf[:, -1:]
            # Rounding can put a draw at the very end of the distribution, one past the last token.
            found = torch.searchsorted(cdf, drawn, right=True).clamp_(max=cdf.shape[1] - 1)
            tokens[:, position + 1] = found[:, 0]
    return tokens


def uniform_draws(key: Sequence[int], length: int, rows: int) -> Tensor:
    """Uniform numbers [length, rows] in [0, 1), a pure function of `key`."""
    return torch.from_numpy(np.random.default_rng(key).random((length, rows), dtype=np.float32))


@dataclass(frozen=True)
class Shard:
    """Some rows of a split, sampled at once; `key` and the number of rows fix their draws."""

    split: str
    index: int
    rows: int
    key: tuple[int, int, int]

    @property
    def file(self) -> str:
        """Name of the shard's file."""
        return f"{self.split}-{self.index:03d}.safetensors"


def plan(config: SampleConfig) -> list[Shard]:
    """The shards of every split, in order."""
    return [
        Shard(split, index, min(config.shard, count - first), (config.seed, number, index))
        for number, (split, count) in enumerate(config.splits().items())
        for index, first in enumerate(range(0, count, config.shard))
    ]


def sampled_from(path: Path) -> str:
    """The settings recorded in a shard or corpus; empty when there is no file."""
    if not path.exists():
        return ""
    with safe_open(path, "pt") as handle:
        metadata: dict[str, str] = handle.metadata() or {}
    return metadata.get("sampled_from", "")


def write_tensors(tensors: dict[str, Tensor], recorded: str, path: Path) -> None:
    """Writes a safetensors file; one entry of metadata, because their order is not fixed."""
    save_file(tensors, path, {"sampled_from": recorded})


def settings(weights: str, config: SampleConfig, rows: dict[str, int]) -> str:
    """What the tokens depend on, as JSON."""
    facts = {"weights": weights, "seed": config.seed, "shard": config.shard, "temperature": 1.0}
    return json.dumps({**facts, "rows": rows})


def is_sampled(model: GPTNeoForCausalLM, config: SampleConfig, target: Path) -> bool:
    """Whether `target` is the corpus of this model and these settings."""
    return sampled_from(target) == settings(fingerprint(model), config, config.splits())


def sample_shard(decoder: Decoder, shard: Shard, recorded: str, path: Path) -> None:
    """Samples the rows of `shard` into `path` as uint16, and prints the speed."""
    began = time.perf_counter()
    draws = uniform_draws(shard.key, decoder.context, shard.rows)
    tokens = sample_rows(decoder, draws, [0]).to(torch.uint16)
    replace_file(path, partial(write_tensors, {"tokens": tokens}, recorded))
    speed = tokens.numel() / (time.perf_counter() - began)
    print(f"{shard.file}  {shard.rows} rows  {speed:,.0f} tokens/s", flush=True)


def sample_corpus(
    model: GPTNeoForCausalLM, config: SampleConfig, shards: Path, target: Path
) -> None:
    """Samples every shard not yet in `shards`, then writes all of them to `target` as uint16.

    Every row begins with `<|endoftext|>` (id 0) and has the model's full context; documents
    follow one another within a row, as in training.
    """
    torch.set_num_threads(config.threads)
    shards.mkdir(parents=True, exist_ok=True)
    weights = fingerprint(model)
    parts: dict[str, list[Tensor]] = {split: [] for split in config.splits()}
    decoder: Decoder | None = None
    for shard in plan(config):
        path = shards / shard.file
        recorded = settings(weights, config, {shard.split: shard.rows})
        if sampled_from(path) != recorded:
            if decoder is None or decoder.rows != shard.rows:
                decoder = Decoder(model, shard.rows, model.config.max_position_embeddings)
            sample_shard(decoder, shard, recorded, path)
        parts[shard.split].append(load_file(path)["tokens"])
    corpus = {split: torch.cat(tensors) for split, tensors in parts.items()}
    recorded = settings(weights, config, config.splits())
    replace_file(target, partial(write_tensors, corpus, recorded))
