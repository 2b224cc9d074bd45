"""Inputs of the golden figures, the same bits on every machine: no rounding makes them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import word_tokenizer
from transformers import PreTrainedModel

D_MODEL, WIDTH = 16, 20


def sixteenths(shape: tuple[int, ...], generator: torch.Generator, reach: int = 8) -> torch.Tensor:
    """Uniform multiples of 1/16 from -reach/16 to reach/16."""
    return torch.randint(-reach, reach + 1, shape, generator=generator) / 16


def save_model(folder: Path, build: Callable[[], PreTrainedModel], seed: int = 0) -> Path:
    """A tiny model with weights in multiples of 1/16, and the tokenizer of words."""
    generator, model = torch.Generator().manual_seed(seed), build()
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            centre = 1.0 if "ln_" in name or "norm" in name else 0.0
            parameter.copy_(centre + sixteenths(tuple(parameter.shape), generator))
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def prompts(count: int, seed: int, words: int = 40, length: int = 12) -> list[str]:
    """Texts of words w1 up to w`words`, the first of them the more frequent."""
    draw = random.Random(seed)
    return [
        " ".join(f"w{1 + int(words * draw.random() ** 2)}" for _ in range(length))
        for _ in range(count)
    ]


def write_texts(path: Path, texts: list[str]) -> Path:
    """Texts as documents of one file."""
    path.write_text("\n<|endoftext|>\n".join(texts))
    return path


def save_saelens(folder: Path, hook: str, seed: int, out: str | None = None) -> Path:
    """An SAE with jumps (or with `out` a transcoder) in SAELens's layout."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {
        "W_enc": 2 * sixteenths((D_MODEL, WIDTH), generator),
        "W_dec": sixteenths((WIDTH, D_MODEL), generator, 4),
        "b_enc": sixteenths((WIDTH,), generator, 16),
        "b_dec": sixteenths((D_MODEL,), generator),
        "threshold": sixteenths((WIDTH,), generator).abs() + 1 / 32,
    }
    kind = "jumprelu" if out is None else "jumprelu_transcoder"
    metadata = {"model_name": "tiny", "hook_name": hook, "hook_name_out": out}
    config = {"architecture": kind, "d_in": D_MODEL, "d_sae": WIDTH, "metadata": metadata}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none"}
    if out is not None:
        config |= {"d_out": D_MODEL}
        tensors["b_dec_out"] = tensors["b_dec"].clone()
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder
