"""The trained model as a Hugging Face folder: float16 weights, config, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import GenerationConfig, GPTNeoForCausalLM, PreTrainedTokenizerFast

from .files import replace_file
from .text import EOS
from .train import BundledModelConfig, build


def trained_steps(folder: Path) -> int:
    """Optimiser steps behind the checkpoint in `folder` (0 when there is none)."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, "pt") as handle:
        return int(handle.metadata()["step"])


def load_trained(folder: Path, config: BundledModelConfig) -> GPTNeoForCausalLM:
    """The float32 model of the checkpoint in `folder`."""
    model = build(config)
    tensors = load_file(folder / "state.safetensors")
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    # The output layer is tied to the embedding and has no entry of its own.
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise ValueError(f"{folder} holds another model: {missing} missing, {unexpected} too many.")
    model.eval()
    return model


def load_export(bundle: Path) -> GPTNeoForCausalLM:
    """The exported model; its float16 weights computed with in float32."""
    model: GPTNeoForCausalLM = GPTNeoForCausalLM.from_pretrained(bundle, dtype=torch.float32)
    model.eval()
    return model


def is_exported(folder: Path, bundle: Path) -> bool:
    """Whether `bundle` already holds the float16 weights of the checkpoint in `folder`."""
    path = bundle / "model.safetensors"
    if not path.exists() or not (bundle / "tokenizer_config.json").exists():
        return False
    exported, trained = load_file(path), load_file(folder / "state.safetensors")
    return all(
        f"model.{name}" in trained and torch.equal(tensor, trained[f"model.{name}"].half())
        for name, tensor in exported.items()
    )


def export(folder: Path, config: BundledModelConfig, bundle: Path) -> None:
    """Writes the checkpoint in `folder` to `bundle` in the library's format, as float16."""
    bundle.mkdir(parents=True, exist_ok=True)
    model = load_trained(folder, config).half()
    model.generation_config = GenerationConfig(
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        do_sample=True,
        temperature=0.7,
        max_length=config.context,
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token=EOS,
        eos_token=EOS,
        unk_token=EOS,
        model_max_length=config.context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(bundle)
    name_tokenizer_class(bundle / "tokenizer_config.json")
    model.save_pretrained(bundle)
    (bundle / "model.safetensors").chmod(0o644)


def name_tokenizer_class(path: Path) -> None:
    """Names the tokenizer's class as every version of the library knows it."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    text = json.dumps(settings, indent=2) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
